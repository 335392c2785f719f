"""The variables `$gray_<id>`: defined, by grayctl alone, and short enough for nginx's hashes."""

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches

from grayctl.advice.finding import Finding, How, Level, Rule
from grayctl.advice.view import GRAY, RESERVED, View, in_http
from grayctl.model.naming import service_id
from grayctl.nginx.inspect import size
from grayctl.nginx.tree import Directive, Placed
from grayctl.policy.resolve import Limits

UNPUBLISHED = Rule(
    "service-unpublished",
    Level.FAILURE,
    "routes",
    "nginx refuses an include of what is not there, and an unknown variable, for which it names neither file nor line",
)
REDEFINED = Rule(
    "variable-redefined",
    Level.FAILURE,
    "routes",
    "of two definitions the last one wins in silence, so grayctl's decision may not count",
)
NAME_TOO_LONG = Rule(
    "name-too-long",
    Level.FAILURE,
    "nginx",
    "a variable that does not fit into a bucket makes nginx refuse everything, so the service is left out",
)
HASH = Rule(
    "hash-too-small", Level.WARNING, "nginx", "nginx says so at every check, builds it slowly, and searches it slowly"
)

_FIRST = frozenset({"set", "perl_set", "js_set", "js_var", "auth_request_set"})
_LAST = frozenset({"map", "geo", "split_clients"})
_CODE = ("_by_lua_block", "_by_lua")  # Lua's own text, in which nginx expands nothing
_NOT_OPTIMAL = re.compile(
    r"could not build (?:optimal )?(?:the )?(?P<hash>\w+_hash),? you should increase (?:either \w+_max_size: \d+ or )?"
    r"(?P<name>\w+_bucket_size): (?P<size>\d+)"
)


def variables(view: View) -> Iterator[Finding]:
    """Every `$gray_<id>` is defined, and by grayctl."""
    known = {service_id(name) for name in view.published}
    used: dict[str, Placed] = {}
    own: set[str] = set()
    for placed in view.tree.walk():
        if not placed.inside("http"):
            continue
        if placed.directive.dangling and placed.directive.snippet:
            used.setdefault(service_id(placed.directive.slug), placed)
        defined = _defined(placed.directive)
        if defined in known | RESERVED:
            yield REDEFINED.found(
                f"{placed.directive.name} defines $gray_{defined}, which is grayctl's",
                how=How.REMOVE,
                advice=" ".join((placed.directive.name, *placed.directive.args)),
                where=placed.directive.where,
            )
        elif defined:
            own.add(defined)
        for argument in () if placed.directive.name.endswith(_CODE) else placed.directive.args:
            for name in GRAY.findall(argument):
                used.setdefault(name.lower(), placed)
    for name in sorted(used.keys() - known - own - RESERVED):
        yield _unpublished(view, name, used[name])


def _defined(one: Directive) -> str:
    """The id of the gray variable that a directive defines; empty when it defines none."""
    target = one.first if one.name in _FIRST else one.args[-1] if one.name in _LAST and one.args else ""
    found = GRAY.fullmatch(target.lower())
    return found[1] if found else ""


def _unpublished(view: View, name: str, placed: Placed) -> Finding:
    near = get_close_matches(name, {service_id(one) for one in view.published}, n=1)
    hint = f"; did you mean {near[0] if placed.directive.dangling else f'$gray_{near[0]}'}?" if near else ""
    # Consul's DNS knows no underscore, so a service's name has a hyphen where its id has one
    service = view.names.get(name, placed.directive.slug or name.replace("_", "-"))
    one = placed.directive
    used = f"{one.text} is written" if one.dangling else f"$gray_{name} is used"
    return UNPUBLISHED.found(
        f"{used}, but no such service is published{hint}",
        how=How.RUN,
        advice=f"grayctl init --service {service}",
        where=placed.directive.where,
    )


def name_lengths(view: View) -> Iterator[Finding]:
    """The variables of published and watched services fit into nginx's hash."""
    http = view.tree.http
    limits = Limits(size(http.last("variables_hash_bucket_size") if http else ""))
    buckets = {name: limits.bucket_for(name) for name in sorted(view.published | set(view.settings.watch.exact))}
    for name in (name for name, bucket in buckets.items() if bucket is None):
        yield NAME_TOO_LONG.found(f"{name}: its id is too long for any hash", how=How.DO, advice="rename the service")
    needed, longest = max(((bucket, name) for name, bucket in buckets.items() if bucket), default=(0, ""))
    if needed > limits.variables_hash_bucket_size:
        how, at, advice = in_http(view, "variables_hash_bucket_size", f"variables_hash_bucket_size {needed};")
        what = f"{longest}: its variables do not fit into a bucket of {limits.variables_hash_bucket_size}"
        yield NAME_TOO_LONG.found(what, how=how, advice=advice, where=at)


def hashes(view: View) -> Iterator[Finding]:
    """The hashes that nginx itself calls too small. Doubling the bucket holds a thousand services."""
    for said in view.warnings:
        if found := _NOT_OPTIMAL.search(said):
            line = f"{found['name']} {2 * int(found['size'])};"
            how, at, advice = in_http(view, found["name"], line)
            yield HASH.found(f"nginx could not build an optimal {found['hash']}", how=how, advice=advice, where=at)


JUDGES: tuple[Callable[[View], Iterator[Finding]], ...] = (variables, name_lengths, hashes)
