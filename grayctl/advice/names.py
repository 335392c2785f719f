"""Host names in the user's own configuration, which nginx resolves while it reads it."""

import ipaddress
import re
from collections.abc import Callable, Iterator

from grayctl.advice.finding import Finding, How, Level, Rule
from grayctl.advice.view import View
from grayctl.nginx.tree import Placed, Tree, line

HOST_NAME = Rule(
    "host-name-in-config",
    Level.WARNING,
    "nginx",
    "nginx resolves it at every check, start and reload, one after another: a dead name costs 10 s and fails them all",
)

_PASSES = frozenset({"proxy_pass", "grpc_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass"})
_HOST = re.compile(r"(?P<host>[A-Za-z0-9_.-]+)(?P<port>:\d+)?\Z")


def host_names(tree: Tree) -> dict[str, list[Placed]]:
    """The names that nginx would resolve, and where; names of upstreams and what has variables are none."""
    upstreams = {placed.directive.first.lower() for placed in tree.walk() if placed.directive.name == "upstream"}
    found: dict[str, list[Placed]] = {}
    for placed in tree.walk():
        if placed.directive.name in _PASSES or (placed.directive.name == "server" and placed.context == "upstream"):
            host = _host(placed) if not placed.directive.snippet else ""  # in a snippet it is an upstream of grayctl's
            if host and host.lower() not in upstreams and not _is_local(host):
                found.setdefault(host, []).append(placed)
    return found


def _host(placed: Placed) -> str:
    one = placed.directive
    if "$" in one.first or one.first.startswith("unix:") or "resolve" in one.args:
        return ""
    _, scheme, rest = one.first.partition("://")
    found = _HOST.match(re.split(r"[/?]", rest, maxsplit=1)[0] if scheme else one.first)
    return found["host"] if found else ""


def _is_local(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"  # from /etc/hosts
    return True


def resolved(view: View) -> Iterator[Finding]:
    """Each name, once where it stands."""
    for host, places in host_names(view.tree).items():
        addresses = view.addresses.get(host, ())
        for placed in places:
            one = placed.directive
            what = f"{one.name} names the host {host}" + ("" if addresses else ", which does not resolve now")
            if not addresses:
                advice = f"write an IP address, or register {host} in Consul and use its variable"
                yield HOST_NAME.found(what, how=How.DO, advice=advice, where=one.where)
            elif placed.context == "upstream":
                advice = "\n".join(
                    line(one.name, one.first.replace(host, _shown(address)), *one.args[1:]) for address in addresses
                )
                yield HOST_NAME.found(what, how=How.REPLACE, advice=advice, where=one.where)
            else:
                yield _upstream(view, placed, host, addresses, what)


def _upstream(view: View, placed: Placed, host: str, addresses: tuple[str, ...], what: str) -> Finding:
    """An upstream of that name: then what is passed on (Host, the name in TLS) stays as it is."""
    one, http = placed.directive, view.tree.http
    port = ":443" if one.first.startswith(("https:", "grpcs:")) else ":80"
    servers = " ".join(f"server {_shown(address)}{port};" for address in addresses)
    if http is None or not placed.inside("http") or f"{host}:" in one.first or one.name != "proxy_pass":
        advice = f"put an upstream with the addresses {', '.join(addresses)} in its place"
        return HOST_NAME.found(what, how=How.DO, advice=advice, where=one.where)
    advice = f"upstream {host} {{ {servers} }}"
    return HOST_NAME.found(f"{what} at {one.where}", how=How.INSIDE, advice=advice, where=http.where)


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address


JUDGES: tuple[Callable[[View], Iterator[Finding]], ...] = (resolved,)
