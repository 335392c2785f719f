"""The locations that pass requests to a service: the target, the headers, the log, the cache."""

from collections.abc import Callable, Iterator

from grayctl.advice.finding import Finding, How, Level, Rule
from grayctl.advice.view import Route, View
from grayctl.model.naming import service_slug
from grayctl.nginx.tree import Directive, line

URI = Rule(
    "uri-in-proxy-pass",
    Level.FAILURE,
    "routes",
    "after a variable nginx sends that URI instead of the client's: every request loses its path and query",
)
PORT = Rule(
    "port-in-proxy-pass",
    Level.FAILURE,
    "routes",
    "the variable names an upstream, which has no port: nginx answers 502",
)
SCHEME = Rule("scheme-missing", Level.FAILURE, "routes", "nginx takes no URL without a scheme: it answers 500")
SNIPPET = Rule(
    "snippet-missing",
    Level.WARNING,
    "routes",
    "instances see the upstream's name as Host, redirects leak it, and every request costs a connection",
)
HOST = Rule(
    "host-header-missing",
    Level.WARNING,
    "routes",
    "instances see the upstream's name as Host, and redirects leak it",
)
KEEPALIVE = Rule(
    "keepalive-off",
    Level.WARNING,
    "routes",
    "connections to instances are kept only with HTTP/1.1 and without `Connection: close`",
)
ACCESS_LOG = Rule(
    "access-log-hides",
    Level.WARNING,
    "routes",
    "a level with an access_log of its own writes none of the outer ones: these requests are missing there",
)
CACHE = Rule(
    "cache-mixes-versions",
    Level.WARNING,
    "routes",
    "the key is the same for every version, so users of one version get cached answers of another",
)


_KEEPING = frozenset({"1.1", "2"})


def targets(view: View) -> Iterator[Finding]:
    """The URL itself: `http://$gray_<id>`, or with variables behind it."""
    for route in view.routes():
        given, rest = route.placed.directive, route.rest
        scheme = route.scheme or ("grpc://" if route.kind == "grpc" else "http://")
        advice = line(given.name, f"{scheme}$gray_{route.id}")
        at = given.where
        if rest.startswith(":"):
            what = f"{given.name} {given.first} names a port"
            yield PORT.found(what, how=How.REPLACE, advice=advice, where=at)
        elif rest and (route.kind == "grpc" or "$" not in rest):
            what = f"{given.name} {given.first} has the URI part {rest}"
            yield URI.found(what, how=How.REPLACE, advice=advice, where=at)
        elif not route.scheme and route.kind == "proxy":
            what = f"{given.name} {given.first} has no scheme"
            yield SCHEME.found(what, how=How.REPLACE, advice=advice, where=at)


def headers(view: View) -> Iterator[Finding]:
    """What instances and kept connections need; the snippet has it all."""
    for route in view.routes():
        if any(one.dangling for block in route.placed.above for one in block.own("include")):
            continue  # a snippet that will be there when its service is published, and brings what is missing
        if route.kind == "grpc":
            yield from _grpc(route)
        else:
            yield from _proxy(view, route)


def _grpc(route: Route) -> Iterator[Finding]:
    block, given = route.placed.in_force("grpc_set_header")
    if not _has(given, "host"):
        # a header of the location's own would cut the inherited ones off, so they are repeated beside it
        lines = [] if block is route.home else [one.text for one in given]
        yield _missing_header(HOST, route, [*lines, line("grpc_set_header", "Host", "$host")], "Host")


def _proxy(view: View, route: Route) -> Iterator[Finding]:
    block, given = route.placed.in_force("proxy_set_header")
    _, versions = route.placed.in_force("proxy_http_version")
    how, at = route.spot
    shown = f"{route.placed.directive.text} in {_named(route.home)}"
    if not given and not versions:
        slug = service_slug(view.names.get(route.id, route.id))
        advice = line("include", f"{view.state_dir}/snippets/{slug}.conf")
        yield SNIPPET.found(f"{shown} sets neither Host nor HTTP/1.1", how=how, advice=advice, where=at)
        return
    kept = view.settings.service(view.names.get(route.id, route.id)).keepalive > 0
    yield from _proxy_headers(route, block, given, kept=kept)
    if kept and not versions:
        what = f"{shown} speaks HTTP/1.0 to the instances"
        yield KEEPALIVE.found(what, how=how, advice=line("proxy_http_version", "1.1"), where=at)
    elif kept and versions[-1].first not in _KEEPING:
        what = f"{versions[-1].text} for {shown}"
        advice = line("proxy_http_version", "1.1")
        yield KEEPALIVE.found(what, how=How.REPLACE, advice=advice, where=versions[-1].where)


def _proxy_headers(
    route: Route, block: Directive | None, given: tuple[Directive, ...], *, kept: bool
) -> Iterator[Finding]:
    own = block is route.home
    closing = [one for one in given if one.first.lower() == "connection" and one.args[-1] == "close"] if kept else []
    lines = [] if own else [one.text for one in given if one not in closing]
    wanted = [] if _has(given, "host") else [line("proxy_set_header", "Host", "$host")]
    open_line = line("proxy_set_header", "Connection", "")
    if kept and (not _has(given, "connection") or (closing and not own)):
        wanted.append(open_line)
    if wanted:
        rule, name = (KEEPALIVE, "Connection") if _has(given, "host") else (HOST, "Host")
        yield _missing_header(rule, route, lines + wanted, name)
    for one in closing if own else ():
        what = f"{one.text} for {route.placed.directive.text}"
        yield KEEPALIVE.found(what, how=How.REPLACE, advice=open_line, where=one.where)


def _missing_header(rule: Rule, route: Route, lines: list[str], name: str) -> Finding:
    how, at = route.spot
    what = f"{route.placed.directive.text} in {_named(route.home)} sets no usable {name} header"
    return rule.found(what, how=how, advice="\n".join(lines), where=at)


def _has(given: tuple[Directive, ...], header: str) -> bool:
    return any(one.first.lower() == header for one in given)


def _named(block: Directive) -> str:
    return " ".join((block.name, *block.args))


def access_logs(view: View) -> Iterator[Finding]:
    """Whether the log of http gets the requests of a service."""
    http = view.tree.http
    wanted = [one for one in (http.own("access_log") if http else ()) if one.first != "off"]
    done: set[str] = set()
    for route in view.routes():
        block, own = route.placed.in_force("access_log")
        if block is None or block is http or block.where in done:
            continue
        done.add(block.where)
        lost = [one for one in wanted if one.args not in {other.args for other in own}]
        if lost:
            off = own[-1].first == "off"
            yield ACCESS_LOG.found(
                f"{own[-1].text} in {_named(block)} hides {', '.join(one.text for one in lost)} from $gray_{route.id}",
                how=How.REPLACE if off else How.BESIDE,
                advice="\n".join(one.text for one in lost),
                where=own[-1].where,
            )


def caches(view: View) -> Iterator[Finding]:
    """Whether a cache keeps versions apart. nginx's default key does: $proxy_host is the upstream's name."""
    for route in view.routes():
        _, cache = route.placed.in_force("proxy_cache")
        block, keys = route.placed.in_force("proxy_cache_key")
        if route.kind != "proxy" or not cache or cache[-1].first == "off" or not keys:
            continue
        key = keys[-1]
        apart = (f"$gray_{route.id}", f"${{gray_{route.id}}}", f"$grayver_{route.id}", "$proxy_host")
        if not any(one in key.first for one in apart):
            how, at = (How.REPLACE, key.where) if block is route.home else route.spot
            yield CACHE.found(
                f"{key.text} for {route.placed.directive.text} does not tell versions apart",
                how=how,
                advice=line("proxy_cache_key", f"{key.first}$gray_{route.id}"),
                where=at,
            )


JUDGES: tuple[Callable[[View], Iterator[Finding]], ...] = (targets, headers, access_logs, caches)
