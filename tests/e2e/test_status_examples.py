"""The examples of `grayctl status` in docs/operations.md are what it prints in those states, in real runs.

UPDATE_EXAMPLES=1 writes them. Process ids, addresses, paths, versions, times, who we are and where a check is
staged are made alike.
"""

import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.edge import Edge
from tests.support.process import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
GUARD = '[guard]\nmin_instances = 4\nhold = "5m"\n'


def frozen(edge: Edge) -> None:
    edge.backend("a")
    edge.up()
    edge.cli("freeze", "--reason", "checkout is slow, looking")
    edge.backend("b")
    wait_until(lambda: "(freeze)" in edge.cli("status").stdout, "the change is held")


def quarantine(edge: Edge) -> None:
    edge.backend("a")
    edge.up()
    templates = edge.folder / "templates" / "services"
    templates.mkdir(parents=True)
    (templates / "shop.conf.j2").write_text("proxy_conect_timeout 1s;\n", encoding="utf-8")
    edge.configure(top=f'templates_dir = "{templates.parent}"')
    edge.cli("render")
    edge.backend("b")
    wait_until(lambda: "not applied yet: 2" in edge.cli("status").stdout, "what the newcomer comes to is worked out")


def held(edge: Edge) -> None:
    edge.backend("a")
    edge.up()
    edge.nginx.server_extra = "proxy_conect_timeout 1s;"
    edge.nginx.write_conf()
    edge.backend("b")
    wait_until(lambda: "(user-config)" in edge.cli("status").stdout, "the change is held")


def guard(edge: Edge) -> None:
    edge.configure(more=GUARD)
    names = ("a", "b", "c", "d")
    for name in names:
        edge.backend(name)
    edge.up()
    edge.down()  # so that it misses all three at once
    for name in names[:3]:
        edge.consul.deregister(name)
    edge.run()
    wait_until(lambda: "3 absent" in edge.cli("status").stdout, "the guard holds")


def dropped(edge: Edge) -> None:
    edge.backend("a")
    edge.consul.register("shop", "b", "10.0.0.7; return 200", 8080)
    edge.consul.register("shop", "c", "127.0.0.1", 8080, weight="heavy")
    edge.consul.set_check("a", "critical")
    edge.up()


STATES = (frozen, quarantine, held, guard, dropped)


def alike(shown: str, edge: Edge) -> str:
    """The text without what differs from run to run."""
    for old, new in (
        (str(edge.nginx.state_dir), "/var/lib/grayctl"),
        (f"{edge.folder}/templates", "/etc/grayctl/templates"),
        (str(edge.folder), "/etc/nginx"),
        (edge.consul.address, "http://127.0.0.1:8500"),
        ("edge-test", "edge-1"),
        (f"this node by {pwd.getpwuid(os.getuid()).pw_name}", "this node by root"),
    ):
        shown = shown.replace(old, new)
    for pattern, new in (
        (r"^nginx ( +)[\d.]+, pid \d+", r"nginx \g<1>1.22.1, pid 640"),
        (r"staged check: flip", "staged check: namespace"),
        (r"grayctl \d[\w.]*, pid \d+", "grayctl 0.1.0, pid 812"),
        (r"\b\d+ s\b(?! more)", "40 s"),
        (r"\b(\d+ s|\d min) more", "5 min more"),
        (r"shop-[0-9a-f]{12,}\.conf", "shop-3f9c2e51a07b.conf"),
        (r" +$", ""),
    ):
        shown = re.sub(pattern, new, shown, flags=re.MULTILINE)
    return shown.strip("\n")


@pytest.mark.parametrize("state", STATES, ids=lambda one: one.__name__)
def test_the_example_is_what_status_prints(edge: Edge, state: Callable[[Edge], None]) -> None:
    try:
        state(edge)
        shown = f"$ grayctl status\n{alike(edge.cli('status').stdout, edge)}\n"
    finally:
        for name in ("b", "c"):
            if name not in edge.backends:
                edge.consul.deregister(name)
    text = PAGE.read_text(encoding="utf-8")
    example = re.compile(rf"(<!-- status: {state.__name__} -->\n```text\n)(.*?)(```\n)", re.DOTALL)
    found = example.search(text)
    assert found, f"{PAGE} has no example of {state.__name__}"
    if os.environ.get("UPDATE_EXAMPLES"):
        PAGE.write_text(f"{text[: found.start(2)]}{shown}{text[found.end(2) :]}", encoding="utf-8")
    else:
        assert found[2] == shown, "run this test with UPDATE_EXAMPLES=1"
