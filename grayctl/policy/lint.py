"""What may be followed and is probably not meant. What may not be followed, `grayctl.policy.document` refuses."""

from collections.abc import Collection, Iterator

import pcre2

from grayctl.errors import Problem
from grayctl.marked import Place
from grayctl.model.release import Condition, Operator, Predicate, Source
from grayctl.policy.document import Document
from grayctl.policy.implication import Implication
from grayctl.policy.predicates import conditions_of

WARNING = "warning"
INFO = "info"


def lint(
    document: Document, *, lists: Collection[str] | None = None, versions: Collection[str] | None = None
) -> tuple[Problem, ...]:
    """Warnings and remarks, in the order of the file.

    A route counts as one that can never match when `implication` sees that the routes before it, or the preview, hold
    wherever it does, or that its own conditions exclude each other; see there how far that looks.

    Args:
        document: a policy that may be followed.
        lists: the names of the lists that exist; None: nobody knows.
        versions: those that have a healthy instance; None: nobody knows.
    """
    found = [
        *_rollout(document),
        *_identity(document),
        *_unreachable(document),
        *_explicit(document),
        *_values(document),
        *_regions(document),
        *_lists(document, lists),
        *_instances(document, versions),
        *_open_headers(document),
    ]
    return tuple(sorted(found, key=lambda one: one.line))


def _problem(
    document: Document, path: str, value: str, wrong: str, advice: str = "", *, level: str = WARNING
) -> Problem:
    place = document.places.get(path, Place(1, path))
    return Problem(document.file, place.line, path, value, wrong, advice, level)


def _rollout(document: Document) -> Iterator[Problem]:
    if "rollout" in document.places:
        yield _problem(document, "rollout", "", "is read past: this version of grayctl runs no rollouts")


def _identity(document: Document) -> Iterator[Problem]:
    sources = [one.source for one in document.release.identity or ()]
    if Source.CLIENT_IP in sources[:-1]:
        wrong = "names client_ip before its end, and no request is without one: what follows never counts"
        yield _problem(document, "identity", "", wrong, "Write client_ip last")


def _unreachable(document: Document) -> Iterator[Problem]:
    release, judge = document.release, Implication()
    before: list[tuple[str, Predicate]] = []
    if release.blue_green is not None:
        before.append(("the preview", release.blue_green.predicate))
    for index, route in enumerate(release.routes):
        always = [name for name, predicate in before if judge.implies(route.predicate, predicate)]
        path = f"routes[{index}]"
        if judge.never(route.predicate):
            yield _problem(document, path, route.name, "can never match: its conditions exclude each other")
        elif always:
            wrong = f"can never match: {always[0]} comes first and holds wherever this does"
            yield _problem(document, path, route.name, wrong, "Move it up, or take it out")
        elif len(before) > 1 and judge.implies_one_of(route.predicate, [predicate for _, predicate in before]):
            wrong = "can never match: one of the routes before it always does"
            yield _problem(document, path, route.name, wrong, "Move it up, or take it out")
        before.append((f"route {route.name}", route.predicate))


def _explicit(document: Document) -> Iterator[Problem]:
    release = document.release
    if release.explicit is None:
        return
    canaries = release.versions[1:]
    if len(canaries) > 1:
        wrong = f"knows no `always`, which counts as unknown: there are several canaries ({', '.join(canaries)})"
        yield _problem(document, "explicit", "", wrong, "Whoever wants one names it")
    if missing := [version for version in release.versions if version not in release.explicit.versions]:
        wrong = f"does not list {', '.join(missing)}: a request that names one of them counts as unknown"
        yield _problem(document, "explicit.versions", "", wrong, level=INFO)


def _conditions(document: Document) -> Iterator[tuple[str, Condition]]:
    """Each condition, with the path of the route or preview that asks it."""
    release = document.release
    for index, route in enumerate(release.routes):
        yield from ((f"routes[{index}]", one) for one in conditions_of(route.predicate))
    if release.blue_green is not None:
        yield from (("blue_green", one) for one in conditions_of(release.blue_green.predicate))


def _values(document: Document) -> Iterator[Problem]:
    for path, one in _conditions(document):
        for value in one.values:
            if remark := _remark(one, value):
                yield _problem(document, path, value, *remark)


def _remark(one: Condition, value: str) -> tuple[str, str] | None:
    """What is odd about a value of a condition, and what to write instead."""
    source = one.input.source
    if source is Source.HEADER and one.operator is Operator.IN and value != value.strip(" \t"):
        wrong = f"is compared with {one.input.text}, around whose value nginx trims blanks: they are never equal"
        return wrong, "Write it without blanks around it"
    if source is Source.PATH and one.operator in _PLAIN and set(value) & {"?", "%"}:
        wrong = "is compared with the decoded path, which has no query; ? and % stand for themselves"
        return wrong, "Write the path decoded, and the query under `query`"
    if one.operator is Operator.REGEX and source is not Source.PATH and pcre2.compile(value.encode()).search(b""):
        wrong = f"is found in the empty text too, but {one.input.text} is not asked where it is empty or absent"
        return wrong, "Ask for absence with `present: false`"
    return None


_PLAIN = {Operator.IN, Operator.PREFIX, Operator.SUFFIX}


def _regions(document: Document) -> Iterator[Problem]:
    asked = {value for _, one in _conditions(document) if one.input.source is Source.REGION for value in one.values}
    for region in document.release.regions:
        if region.name not in asked:
            path = Place(1, "regions").key(region.name).path
            yield _problem(document, path, region.name, "is a region that no condition asks for")


def _lists(document: Document, lists: Collection[str] | None) -> Iterator[Problem]:
    for name, place in document.lists if lists is not None else ():
        if lists is not None and name not in lists:
            wrong = "is a list that does not exist, so it holds nobody"
            advice = f"Write it with `grayctl list put {name}`"
            yield Problem(document.file, place.line, place.path, name, wrong, advice, WARNING)


def _instances(document: Document, versions: Collection[str] | None) -> Iterator[Problem]:
    release = document.release
    for version in release.versions if versions is not None else ():
        if versions is None or version in versions:
            continue
        wrong = "has no healthy instance: its requests go to stable"
        if version == release.stable:
            wrong = f"has no healthy instance, and is stable: `when_empty` says {release.when_empty}"
        elif release.blue_green is not None and version == release.blue_green.preview:
            wrong = "has no healthy instance: its preview answers 503"
        yield _problem(document, _named_at(document, version), version, wrong)


def _named_at(document: Document, version: str) -> str:
    """The first place that names a version."""
    release = document.release
    if version == release.stable:
        return "stable"
    if version in dict(release.shares):
        return Place(1, "traffic").key(version).path
    for index, route in enumerate(release.routes):
        if version == route.to:
            return f"routes[{index}].to"
        if version in dict(route.shares):
            return Place(1, f"routes[{index}].traffic").key(version).path
    return "blue_green" if release.blue_green is not None and release.blue_green.preview == version else "explicit"


def _open_headers(document: Document) -> Iterator[Problem]:
    release = document.release
    names = {one.input.name for _, one in _conditions(document) if one.input.source is Source.HEADER}
    if release.explicit is not None and not release.explicit.networks and release.explicit.input.name:
        names |= {release.explicit.input.name} if release.explicit.input.source is Source.HEADER else set()
    if names:
        wrong = f"decides by headers that any client may send: {', '.join(sorted(names))}"
        advice = "Drop them at the edge, or ask for client_ip too, where that matters"
        path = "routes" if "routes" in document.places else "explicit"
        yield _problem(document, path if path in document.places else "blue_green", "", wrong, advice, level=INFO)
