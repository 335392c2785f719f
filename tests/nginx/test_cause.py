"""The cause of a failed reload is recognised, and that it has gone, without another reload."""

import os
import signal
import socket
from collections.abc import Callable

import pytest

from grayctl.nginx.cause import cause_of
from grayctl.nginx.generations import Store
from grayctl.nginx.ports import address, is_taken, strangers
from grayctl.nginx.process import Master, is_suspended, suspended
from grayctl.nginx.site import Site
from tests.support.nginx import Nginx
from tests.support.ports import free_ports
from tests.support.process import wait_until

OTHER = Master(1, 1)


@pytest.fixture
def site(nginx: Nginx, store: Store) -> Site:
    """Generation 0 is served."""
    one = nginx.site(store)
    one.init(nginx.files("v0"), created=0.0)
    nginx.start()
    one.look()
    return one


def _master(site: Site) -> Master:
    assert site.master is not None
    return site.master


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("80", ("0.0.0.0", 80)),
        ("*:65535", ("0.0.0.0", 65535)),
        ("[::1]:8080", ("::1", 8080)),
        ("[::]:80", ("::", 80)),
        ("unix:/run/nginx.sock", None),
        ("localhost:80", None),
        ("127.0.0.1", None),
        ("0", None),
        ("65536", None),
        ("$port", None),
    ],
)
def test_an_address_is_read_as_nginx_writes_it(text: str, meant: tuple[str, int] | None) -> None:
    assert address(text) == meant


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_port_is_taken_as_long_as_somebody_holds_it(
    family: socket.AddressFamily, host: str, kind: socket.SocketKind
) -> None:
    where = (host, free_ports(1)[0])
    with socket.socket(family, kind) as holder:
        try:
            holder.bind(where)
        except OSError as error:
            pytest.skip(f"this machine has no {host}: {error}")
        if kind == socket.SOCK_STREAM:
            holder.listen()
        assert is_taken(where)
    assert not is_taken(where)


def test_a_closed_connection_does_not_hold_its_port() -> None:
    """The side that closes first stays in TIME_WAIT for a minute; nginx can listen there all the same."""
    where = ("127.0.0.1", free_ports(1)[0])
    with socket.create_server(where) as server, socket.create_connection(where):
        server.accept()[0].close()
    assert not is_taken(where)


def test_strangers_are_told_from_what_nginx_holds_itself() -> None:
    here, there, free = free_ports(3)
    with socket.create_server(("127.0.0.1", here)), socket.create_server(("127.0.0.1", there)):
        held = f"server {{\n    listen 127.0.0.1:{here};\n}}\n"
        wanted = held + f"server {{\n    listen 127.0.0.1:{there};\n    listen 127.0.0.1:{free} http2;\n}}\n"
        (line,) = strangers(wanted, held)
        assert line.startswith(f"127.0.0.1:{there} is held by another process")
    assert strangers(wanted, held) == ()


@pytest.mark.parametrize(
    "form", ["bind() to 127.0.0.1:{} failed (98: Address already in use)", "bind() to {} failed (98"]
)
def test_a_port_that_nginx_could_not_bind(site: Site, form: str) -> None:
    (port,) = free_ports(1)
    with socket.create_server(("0.0.0.0", port)):
        cause = cause_of(f"[emerg] {form.format(port)}", site.facts, site.master)
        assert not cause.is_gone(site.master, again=False)
    assert cause.is_gone(site.master, again=False)


def test_a_suspended_master(site: Site) -> None:
    master = _master(site)
    os.kill(master.pid, signal.SIGSTOP)
    wait_until(lambda: is_suspended(master.pid), "it is suspended")
    cause = cause_of(suspended(master), site.facts, master)
    assert not cause.is_gone(master, again=False)
    os.kill(master.pid, signal.SIGCONT)
    wait_until(lambda: cause.is_gone(master, again=False), "it is resumed")
    late = cause_of(suspended(master), site.facts, master)
    assert late.is_gone(master, again=False), "resumed before anybody asked for the cause"


def test_the_owners_configuration_was_touched(site: Site, nginx: Nginx) -> None:
    cause = cause_of("limit_req uses another key", site.facts, site.master)
    assert not cause.is_gone(site.master, again=False)
    nginx.http_extra = "# mended"
    nginx.write_conf()
    assert cause.is_gone(site.master, again=True)


@pytest.mark.parametrize(
    ("now", "again", "gone"),
    [
        (lambda site: site.master, False, False),
        (lambda _: OTHER, False, True),
        (lambda _: OTHER, True, False),
        (lambda _: None, False, False),
    ],
    ids=["the same", "another", "another, as the last time", "none"],
)
def test_a_new_master_is_a_reason_once(
    site: Site, now: Callable[[Site], Master | None], *, again: bool, gone: bool
) -> None:
    """A reload may be what ends masters, so that one after another is no reason to go on."""
    cause = cause_of("nobody answers", site.facts, site.master)
    assert cause.is_gone(now(site), again=again) is gone
