"""The include of the generations: there, once, in the right context, by its exact name."""

from collections.abc import Callable, Iterator

from grayctl.advice.finding import Finding, How, Level, Rule
from grayctl.advice.view import View
from grayctl.nginx.tree import ENTRIES, Placed

MISSING = Rule(
    "include-missing", Level.FAILURE, "nginx", "without it nginx serves nothing of grayctl's, and every change is held"
)
STREAM_MISSING = Rule(
    "stream-include-missing", Level.WARNING, "nginx", "without it services over TCP would not be served"
)
TWICE = Rule("include-twice", Level.FAILURE, "nginx", "every upstream would be defined twice, which nginx refuses")
MISPLACED = Rule("include-misplaced", Level.FAILURE, "nginx", "what grayctl generates belongs in another block")
BY_GLOB = Rule(
    "include-by-glob",
    Level.FAILURE,
    "nginx",
    "nginx accepts in silence a pattern that matches nothing, and grayctl does not count on one",
)


def includes(view: View) -> Iterator[Finding]:
    """Judge every include of an entry file, and their absence."""
    seen: dict[str, list[Placed]] = {name: [] for name in ENTRIES}
    for placed in view.tree.walk():
        for name in placed.directive.entries:
            wanted = f"include {view.state_dir}/current/{name};"
            at, context = placed.directive.where, placed.context
            if context != ENTRIES[name]:
                if not set(placed.directive.entries) - {
                    name
                }:  # a pattern that is right for another entry is judged there
                    yield MISPLACED.found(
                        f"{placed.directive.first} stands in {context}; it belongs in {ENTRIES[name]}",
                        how=How.REMOVE,
                        advice=placed.directive.text,
                        where=at,
                    )
                continue
            if placed.directive.has_magic:
                yield BY_GLOB.found(
                    f"{name} is included through the pattern {placed.directive.first}",
                    how=How.REPLACE,
                    advice=wanted,
                    where=at,
                )
            elif seen[name]:
                yield _twice(seen[name][0], placed)
            seen[name].append(placed)
    yield from _missing(view, seen)


def _twice(first: Placed, again: Placed) -> Finding:
    at = again.directive.where
    if first.directive.where == at:
        what = f"the file that includes {again.directive.first} is itself included more than once"
        return TWICE.found(what, how=How.DO, advice=f"include {again.directive.file} once", where=at)
    what = f"{again.directive.first} is included a second time; first at {first.directive.where}"
    return TWICE.found(what, how=How.REMOVE, advice=again.directive.text, where=at)


def _missing(view: View, seen: dict[str, list[Placed]]) -> Iterator[Finding]:
    http, streams = view.tree.http, view.tree.main.own("stream")
    line = f"include {view.state_dir}/current/http.conf;"
    if not seen["http.conf"]:
        what = f"{view.tree.main.file} does not include the generations in http"
        if http is None:
            yield MISSING.found(what, how=How.APPEND, advice=f"http {{\n    {line}\n}}", where=view.tree.main.file)
        else:
            yield MISSING.found(what, how=How.INSIDE, advice=line, where=http.where)
    if streams and not seen["stream.conf"]:
        yield STREAM_MISSING.found(
            "the stream block does not include the generations",
            how=How.INSIDE,
            advice=f"include {view.state_dir}/current/stream.conf;",
            where=streams[0].where,
        )


JUDGES: tuple[Callable[[View], Iterator[Finding]], ...] = (includes,)
