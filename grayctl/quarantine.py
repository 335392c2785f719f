"""Quarantine: which service is at fault, and what is served instead. Pure.

A service whose template or data fails, or that nginx refuses, stays at its last good object while all others
move on. It leaves by itself, when what it would be has changed and passes, or when a retry finds it passing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from grayctl.model.generation import Object
from grayctl.model.identity import renewed


@dataclass(frozen=True, slots=True)
class Case:
    """One service in quarantine.

    Attributes:
        reason: nginx's own words, or the template's error.
        since: wall clock, seconds since the epoch.
        sha: the object that was refused; empty when there was none to refuse.
    """

    reason: str
    since: float
    sha: str = ""


@dataclass(frozen=True, slots=True)
class Ward:
    """The cases, by service."""

    cases: dict[str, Case] = field(default_factory=dict)

    def admit(self, service: str, reason: str, now: float, sha: str = "") -> "Ward":
        """Put a service into quarantine; one that is there already keeps its time of entry."""
        earlier = self.cases.get(service)
        since = earlier.since if earlier else now
        return replace(self, cases={**self.cases, service: Case(reason, since, sha)})

    def release(self, service: str) -> "Ward":
        """Let a service out."""
        return replace(self, cases={name: case for name, case in self.cases.items() if name != service})

    def holds(self, candidate: Object) -> bool:
        """Whether this very object was refused, so that trying it again can wait for a retry."""
        case = self.cases.get(candidate.service)
        return case is not None and case.sha == candidate.sha

    def reasons(self) -> dict[str, str]:
        """Service -> reason."""
        return {service: case.reason for service, case in sorted(self.cases.items())}


def substitute(
    rendered: Mapping[str, Object], ward: Ward, last_good: Mapping[str, Object], stubs: Mapping[str, Object]
) -> Mapping[str, Object]:
    """What each service gets: its new object, or in quarantine its last good one, or a stub that answers 503.

    Args:
        rendered: service -> new object; a service whose template failed is missing.
        ward: who is in quarantine.
        last_good: service -> object of the current generation.
        stubs: service -> object that answers 503, for quarantined services that were never good.
    """
    held = {service for service in ward.cases if service not in rendered or ward.holds(rendered[service])}
    stand_ins = {service: last_good.get(service) or stubs.get(service) for service in held}
    return renewed(rendered, held, {service: one for service, one in stand_ins.items() if one is not None})


def culprit(path: str, objects: Mapping[str, Object], root: str) -> str | None:
    """The service whose file nginx named; None when it is none of this candidate.

    Args:
        path: as nginx names it.
        objects: the candidate's.
        root: the state directory. What the user includes may lie elsewhere under the same name.
    """
    name, included = path.rpartition("/")[2], path.removeprefix(f"{root}/snippets/")
    return next((service for service, one in objects.items() if one.filename == name or included in one.included), None)
