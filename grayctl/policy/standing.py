"""What Consul's KV says about releases -> what is in force for each service, and what is wrong with the rest.

A policy is in force together with the live record that names its revision. Until both are there and can be read, what
was in force stays in force: a broken policy never changes what is served. The same holds for a staged policy on a node
in its scope; when it is taken back, the node follows the release, and when there is none it follows on what it has.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from grayctl.errors import ReleaseError
from grayctl.model.catalog import Entry
from grayctl.model.release import InForce, Live, Release
from grayctl.policy.document import read_release
from grayctl.policy.drains import Drained, drained
from grayctl.policy.lists import entries_of
from grayctl.policy.live import Ended, Unreadable, decode_live, revision_of
from grayctl.policy.staging import Staged, decode_staged


@dataclass(frozen=True, slots=True)
class Unled:
    """A policy that waits for its live record.

    Attributes:
        before: the live record that there is, for another revision; None when there is none.
        policy: the policy's own entry.
        seen: the live record's entry, for check-and-set.
    """

    service: str
    release: Release
    revision: str
    before: Live | None
    policy: Entry
    seen: Entry | None


@dataclass(frozen=True, slots=True)
class Standing:
    """The releases at one time.

    Attributes:
        in_force: by service.
        lists: name -> entries.
        problems: by service, one line: why what stands in Consul is not what is in force.
        unled: policies that wait for their live record.
        drained: ids of the instances that people took out, by service.
        staged: by service, one line: for whom another policy is staged, and whether this node follows it.
        kept: services whose policy is gone from Consul, and that nobody ended: what was in force stays.
    """

    in_force: dict[str, InForce]
    lists: dict[str, tuple[str, ...]]
    problems: dict[str, str]
    unled: tuple[Unled, ...]
    drained: Mapping[str, frozenset[str]] = field(default_factory=dict)
    staged: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()


NO_RELEASES = Standing({}, {}, {}, ())
_Verdict = InForce | Unled | Ended | str  # in force; waits; over; or what is wrong, and then what was in force stays
_GONE = "its policy is gone from Consul; what was in force stays. If that is meant: grayctl release delete {service}"


@dataclass(frozen=True, slots=True)
class Here:
    """The node that follows: staged policies are for some nodes alone."""

    node: str
    labels: Mapping[str, str]


class Policies:
    """Reads policies as they come, each text once, and remembers what was in force.

    Args:
        before: what is in force already, by service: releases, and staged policies that this node follows.
    """

    def __init__(self, before: Mapping[str, InForce]) -> None:
        self._in_force = dict(before)
        self._before = before  # until the first judgement, which tells what of it was staged
        self._staged: dict[str, InForce] = {}
        self._verdicts: dict[str, tuple[Entry | None, Entry | None, _Verdict]] = {}
        self._read: dict[str, tuple[bytes, Release | str]] = {}
        self._lists: dict[str, tuple[tuple[Entry, ...], tuple[str, ...]]] = {}
        self._drains: tuple[tuple[Entry, ...], Drained] = (), drained(())
        self._last: tuple[tuple[object, ...], Standing] | None = None

    def judge(self, kv: Mapping[str, tuple[Entry, ...]], here: Here | None = None) -> Standing:
        """What is in force now; the very object of last time while the entries are the same.

        Args:
            kv: the entries of `releases`, `live`, `staged`, `lists` and `drains`.
            here: the node; without it no staged policy counts.
        """
        given = (here, *(kv.get(name, ()) for name in ("releases", "live", "staged", "lists", "drains")))
        if self._last is None or self._last[0] != given:
            self._last = given, self._judge_all(kv, here)
        return self._last[1]

    def _judge_all(self, kv: Mapping[str, tuple[Entry, ...]], here: Here | None) -> Standing:
        policies = _by_name(kv.get("releases", ()))
        lives = _by_name(kv.get("live", ()))
        problems: dict[str, str] = {}
        unled: list[Unled] = []
        verdicts, self._verdicts = self._verdicts, {}
        for service in sorted(policies.keys() | self._in_force.keys()):
            policy, seen = policies.get(service), lives.get(service)
            known = verdicts.get(service)
            if known is None or known[0] != policy or known[1] != seen:
                known = policy, seen, self._judge(service, policy, seen)
            self._verdicts[service] = known
            match known[2]:
                case InForce() as found:
                    self._in_force[service] = found
                case Unled() as waits:
                    unled.append(waits)
                case Ended():
                    del self._in_force[service]
                case reason:
                    problems[service] = reason
        notes: dict[str, str] = {}
        bereft: dict[str, InForce] = {}
        if here:
            entries = _by_name(kv.get("staged", ()))
            followed = self._judge_staged(entries, policies, here, problems, notes)
            bereft = self._bereft(entries, policies, lives, problems)
            self._staged = followed | bereft
            self._before = {}
        used = {entry.key for name in ("releases", "staged") for entry in kv.get(name, ())}
        self._read = {key: one for key, one in self._read.items() if key in used}
        out, unreadable = self._drained(kv.get("drains", ()))
        problems.update({service: why for service, why in unreadable.items() if service not in problems})
        kept = tuple(sorted((self._in_force.keys() | bereft.keys()) - policies.keys()))
        in_force = self._in_force | self._staged
        return Standing(in_force, self._all_lists(kv.get("lists", ())), problems, tuple(unled), out, notes, kept)

    def _judge(self, service: str, policy: Entry | None, seen: Entry | None) -> _Verdict:
        """What a policy and the live record beside it come to."""
        live = decode_live(seen.key, seen.value) if seen else None
        if policy is None:
            return live if isinstance(live, Ended) else _GONE.format(service=service)
        release = self._release(service, policy.key, policy.value)
        if isinstance(release, str):
            return release
        if isinstance(live, Unreadable):
            return live.reason
        revision, before = revision_of(policy.value), live if isinstance(live, Live) else None
        if before is None or before.revision != revision:
            return Unled(service, release, revision, before, policy, seen)
        new, known = InForce(release, before), self._in_force.get(service)
        return known if known == new else new

    def _judge_staged(
        self,
        entries: Mapping[str, Entry],
        policies: Mapping[str, Entry],
        here: Here,
        problems: dict[str, str],
        notes: dict[str, str],
    ) -> dict[str, InForce]:
        """The staged policies that this node follows; one that breaks stays as it was."""
        found: dict[str, InForce] = {}
        for service, entry in entries.items():
            staged = decode_staged(entry.key, entry.value)
            wrong = staged.reason if isinstance(staged, Unreadable) else ""
            known = self._staged.get(service)
            if isinstance(staged, Staged):
                covered = staged.scope.covers(service, here.node, here.labels)
                followed = "followed" if covered else "not followed"
                notes[service] = f"the policy that is staged for {staged.scope.text} is {followed} here"
                if not covered:
                    continue
                release = self._release(service, entry.key, staged.text)
                if isinstance(release, Release):
                    new = InForce(release, staged.live)
                    found[service] = known if known == new else new
                    if service not in policies and self._before.get(service) == new:
                        self._in_force.pop(service, None)  # it was never a release, so none is missing
                        problems.pop(service, None)
                    continue
                wrong = release
            problems[service] = wrong
            # after a restart: what was served and is not the release was staged, as far as anybody can tell
            known = known or self._before.get(service)
            if known is not None and known != self._in_force.get(service):
                found[service] = known
        return found

    def _bereft(
        self,
        entries: Mapping[str, Entry],
        policies: Mapping[str, Entry],
        lives: Mapping[str, Entry],
        problems: dict[str, str],
    ) -> dict[str, InForce]:
        """What this node followed, is staged no more, and has no release to give way to: Consul lost its state."""
        found: dict[str, InForce] = {}
        for service in self._staged.keys() - entries.keys():
            live = lives.get(service)
            if live is not None:
                ended = service not in policies and isinstance(decode_live(live.key, live.value), Ended)
                if ended or service in self._in_force:
                    continue
            found[service] = self._staged[service]
            problems[service] = (
                "what was staged for it is gone from Consul, and there is no release: what was in force stays. "
                f"Apply a policy, or end it: grayctl release delete {service}"
            )
        return found

    def _release(self, service: str, key: str, text: bytes) -> Release | str:
        known = self._read.get(key)
        if known is None or known[0] != text:
            try:
                known = text, read_release(text, key, service=service)
            except ReleaseError as error:
                known = text, str(error)
            self._read[key] = known
        return known[1]

    def _drained(self, entries: tuple[Entry, ...]) -> Drained:
        if self._drains[0] != entries:
            self._drains = entries, drained(entries)
        return self._drains[1]

    def _all_lists(self, entries: Iterable[Entry]) -> dict[str, tuple[str, ...]]:
        """Lists by name; an unchanged one keeps its very object, so that whoever caches need not compare."""
        parts: dict[str, list[Entry]] = {}
        for entry in sorted(entries, key=lambda one: one.key):
            parts.setdefault(entry.key.rsplit("/", 2)[-2], []).append(entry)
        kept = {}
        for name, found in parts.items():
            known = self._lists.get(name)
            same = known is not None and known[0] == tuple(found)
            kept[name] = known if known and same else (tuple(found), entries_of(part.value for part in found))
        self._lists = kept
        return {name: one for name, (_, one) in kept.items()}


def written(kv: Mapping[str, tuple[Entry, ...]], revisions: Mapping[str, str]) -> dict[str, int]:
    """Service -> the index of the key that holds this revision of its policy: the release, or what is staged."""
    found: dict[str, int] = {}
    for service, entry in _by_name(kv.get("staged", ())).items():
        staged = decode_staged(entry.key, entry.value) if service in revisions else None
        if isinstance(staged, Staged) and staged.live.revision == revisions[service]:
            found[service] = entry.modify_index
    for service, entry in _by_name(kv.get("releases", ())).items():
        if service in revisions and revision_of(entry.value) == revisions[service]:
            found[service] = entry.modify_index
    return found


def _by_name(entries: Iterable[Entry]) -> dict[str, Entry]:
    return {entry.key.rpartition("/")[2]: entry for entry in entries}
