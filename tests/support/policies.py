"""Every field of a policy that takes a text: how it gets one, where a Release keeps it; and texts to be afraid of."""

from collections.abc import Callable
from typing import Any

from grayctl.model.release import Condition, Input, Release
from grayctl.policy.predicates import conditions_of, quoted


def routed(match: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"service": "s", "stable": "v1", "routes": [{"name": "r", "match": match, "to": "v2"}], **more}


def when(expression: str) -> dict[str, Any]:
    return {"service": "s", "stable": "v1", "routes": [{"name": "r", "when": expression, "to": "v2"}]}


def condition(release: Release) -> Condition:
    (found,) = conditions_of(release.routes[0].predicate)
    return found


def value(release: Release) -> str:
    found = condition(release)
    return found.values[0] if found.values else ""  # an empty text is absence


def name(release: Release) -> str:
    return condition(release).input.name


def identity(release: Release) -> Input:
    assert release.identity is not None
    return release.identity[0]


Field = tuple[Callable[[str], dict[str, Any]], Callable[[Release], str]]
FIELDS: dict[str, Field] = {
    "service": (lambda text: {"service": text, "stable": "v1"}, lambda release: release.service),
    "stable": (lambda text: {"service": "s", "stable": text}, lambda release: release.stable),
    "traffic": (
        lambda text: {"service": "s", "stable": "v1", "traffic": {text: 5}},
        lambda release: release.shares[0][0] if release.shares else release.stable,
    ),
    "route name": (
        lambda text: {"service": "s", "stable": "v1", "routes": [{"name": text, "match": {"path": "/"}, "to": "v2"}]},
        lambda release: release.routes[0].name,
    ),
    "to": (
        lambda text: {"service": "s", "stable": "v1", "routes": [{"name": "r", "match": {"path": "/"}, "to": text}]},
        lambda release: release.routes[0].to,
    ),
    "identity header": (
        lambda text: {"service": "s", "stable": "v1", "identity": {"header": text}},
        lambda release: identity(release).name,
    ),
    "identity query": (
        lambda text: {"service": "s", "stable": "v1", "identity": {"query": text}},
        lambda release: identity(release).name,
    ),
    "header name": (lambda text: routed({"header": {text: "a"}}), name),
    "cookie name": (lambda text: routed({"cookie": {text: "a"}}), name),
    "query name": (lambda text: routed({"query": {text: "a"}}), name),
    "header": (lambda text: routed({"header": {"X": text}}), value),
    "header in": (lambda text: routed({"header": {"X": {"in": [text]}}}), value),
    "cookie prefix": (lambda text: routed({"cookie": {"X": {"prefix": text}}}), value),
    "query suffix": (lambda text: routed({"query": {"X": {"suffix": text}}}), value),
    "regex": (lambda text: routed({"query": {"X": {"regex": text}}}), value),
    "has": (lambda text: routed({"header": {"X": {"has": text}}}), value),
    "in_list": (lambda text: routed({"header": {"X": {"in_list": text}}}), value),
    "path": (lambda text: routed({"path": text}), value),
    "path prefix": (lambda text: routed({"path": {"prefix": text}}), value),
    "method": (lambda text: routed({"method": text}), value),
    "port": (lambda text: routed({"port": text}), value),
    "device": (lambda text: routed({"device": text}), value),
    "identity": (lambda text: routed({"identity": text}), value),
    "when value": (lambda text: when(f'header("X") == {quoted(text)}'), value),
    "when name": (lambda text: when(f"present(query({quoted(text)}))"), name),
    "when regex": (lambda text: when(f"matches(path, {quoted(text)})"), value),
    "explicit": (
        lambda text: {"service": "s", "stable": "v1", "explicit": {"cookie": text}},
        lambda release: release.explicit.input.name if release.explicit else "",
    ),
    "explicit version": (
        lambda text: {"service": "s", "stable": "v1", "explicit": {"cookie": "x", "versions": [text]}},
        lambda release: release.explicit.versions[0] if release.explicit else "",
    ),
    "region": (
        lambda text: {"service": "s", "stable": "v1", "regions": {text: ["10.0.0.0/8"]}},
        lambda release: release.regions[0].name,
    ),
    "region value": (
        lambda text: {"service": "s", "stable": "v1", "regions": {"r": {"variable": "$x", "values": [text]}}},
        lambda release: release.regions[0].values[0],
    ),
    "hash": (
        lambda text: {"service": "s", "stable": "v1", "balance": {"hash": text}},
        lambda release: release.balance.key.text if release.balance.key else "",
    ),
}
NASTY = [
    "", " ", "~", "null", "default", "hostnames", "~.", "~*a", "$x", "${x}", "a;b", "a}b{", '"', "'", "\\", "\\\\n",
    "a\nb", "a\tb", "\x00", "#", "# a", "a #b", "- a", "? a", ": a", "a: b", "{a", "[a", "*a", "&a", "!a", "|", ">",
    "%", "@a", "`a", "<<", "=", "yes", "0777", "1_000", ".inf", "2001-01-01", "\ufeff", "\u2028", "\x85", "\x7f",
    "🦀", "\ud83e", "é" * 128, "x" * 257, "(", "(?<a>b)", "a|b", "*.example.com", "volatile", "include", "always",
]  # fmt: skip
