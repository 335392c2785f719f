"""Flap damping, with invented times: who counts as a flapper, for how long, and what that never does."""

from typing import Any

import msgspec
import pytest

from grayctl.model.catalog import Catalog, Health, Registration
from grayctl.policy.admission import Presence
from grayctl.policy.damping import Damping, Instance
from grayctl.policy.guard import Guard
from grayctl.policy.resolve import Limits, resolve
from grayctl.settings import DampingSettings, Duration, GuardSettings, Settings, WatchSettings

OUT = DampingSettings(max_flips=3, window=Duration(60.0), calm=Duration(30.0))
IN = msgspec.structs.replace(OUT, keep="in")
WATCH = WatchSettings()
FLAPPER = Instance("shop", "n1", "c")
PASSING, CRITICAL = Health.PASSING, Health.CRITICAL


def row(name: str, health: Health = PASSING, **more: Any) -> Registration:
    own = Registration(
        service="shop", id=name, node="n1", address=f"10.0.0.{ord(name)}", port=80, meta=_meta(), health=health
    )
    return msgspec.structs.replace(own, **more)


def _meta(**more: str) -> tuple[tuple[str, str], ...]:
    return tuple(({"version": "v1"} | more).items())


A, B, C = row("a"), row("b"), row("c")


def catalog(*rows: Registration) -> Catalog:
    return Catalog(services={"shop": rows})


def flapped(*rows: Registration, times: int = 4, settings: DampingSettings = OUT, began: float = 100.0) -> Damping:
    """`c` among the rows flips so often, a second apart, and is healthy before the first and after an even number."""
    damping = Damping().look({"shop": (*rows, C)}, settings, WATCH, began - 1)
    for flip in range(times):
        now = (*rows, row("c", PASSING if flip % 2 else CRITICAL))
        damping = damping.look({"shop": now}, settings, WATCH, began + flip)
    return damping


def served(damping: Damping, now: Catalog, settings: DampingSettings = OUT, **more: frozenset[str]) -> list[str]:
    """Who would get traffic."""
    drained = {"shop": more.get("drained", frozenset())}
    _, left = damping.apply(now, settings, WATCH, drained=drained, guarded=more.get("guarded", frozenset()))
    plan = resolve(left, {}, Settings(), Limits()).services["shop"]
    return [server.instance for server in plan.known if server.instance not in drained["shop"]]


def test_nothing_is_counted_where_it_is_off() -> None:
    damping = flapped(A, B, times=50, settings=DampingSettings())
    assert damping == Damping()


def test_as_many_flips_as_allowed_are_no_flapping() -> None:
    damping = flapped(A, B, times=3)
    assert damping.flappers == {}
    assert damping.until is None


def test_one_more_makes_a_flapper_that_is_kept_out_and_the_others_are_not() -> None:
    damping = flapped(A, B, times=4)
    assert list(damping.flappers) == [FLAPPER]
    assert served(damping, catalog(A, B, C)) == ["a", "b"]


def test_flips_that_are_further_apart_than_the_window_are_forgotten() -> None:
    damping = Damping().look({"shop": (A, C)}, OUT, WATCH, 0.0)
    for flip in range(20):
        rows = (A, row("c", PASSING if flip % 2 else CRITICAL))
        damping = damping.look({"shop": rows}, OUT, WATCH, 1 + 16.0 * flip)
        assert len(next(iter(damping.flipping.values())).flips) <= 4
    assert list(damping.flappers) == [FLAPPER]
    steady = Damping().look({"shop": (A, C)}, OUT, WATCH, 0.0)
    for flip in range(20):
        rows = (A, row("c", PASSING if flip % 2 else CRITICAL))
        steady = steady.look({"shop": rows}, OUT, WATCH, 1 + 21.0 * flip)
        assert steady.flappers == {}


def test_coming_and_going_are_flips_too() -> None:
    damping = Damping().look({"shop": (A, C)}, OUT, WATCH, 0.0)
    for at in range(1, 5):
        damping = damping.look({"shop": (A, C) if at % 2 == 0 else (A,)}, OUT, WATCH, float(at))
    assert list(damping.flappers) == [FLAPPER]


def test_calm_ends_it_at_the_time_that_is_told_before() -> None:
    damping = flapped(A, B, times=4, began=100.0)
    assert damping.until == 133.0
    seen = damping.seen or {}
    assert list(damping.look(seen, OUT, WATCH, 132.9).flappers) == [FLAPPER]
    calm = damping.look(seen, OUT, WATCH, 133.0)
    assert calm.until is None
    assert calm.flipping == {}
    assert served(calm, catalog(A, B, C)) == ["a", "b", "c"]


def test_a_flip_while_it_is_kept_out_puts_the_calm_off() -> None:
    damping = flapped(A, B, times=4, began=100.0).look({"shop": (A, B, row("c", CRITICAL))}, OUT, WATCH, 120.0)
    assert damping.until == 150.0


def test_it_never_empties_a_service() -> None:
    assert served(flapped(), catalog(C)) == ["c"]
    both_critical = catalog(row("a", CRITICAL), row("b", CRITICAL), C)
    assert served(flapped(A, B), both_critical) == ["c"]


@pytest.mark.parametrize(
    "other",
    [
        row("a", meta=_meta(version="v2")),
        row("a", meta=_meta(weight="0")),
        row("a", meta=_meta(backup="true")),
        row("a", port=0),
    ],
    ids=["other-version", "weight-0", "backup", "dropped"],
)
def test_it_stays_where_no_other_would_serve_its_version(other: Registration) -> None:
    assert "c" in served(flapped(other), catalog(other, C))


def test_it_stays_where_the_only_other_is_drained() -> None:
    assert served(flapped(A), catalog(A, C), drained=frozenset("a")) == ["c"]


def test_two_flappers_beside_nobody_are_as_consul_has_them() -> None:
    damping = Damping().look({"shop": (A, C)}, OUT, WATCH, 0.0)
    for at in range(1, 5):
        health = CRITICAL if at % 2 else PASSING
        damping = damping.look({"shop": (row("a", health), row("c", health))}, OUT, WATCH, float(at))
    assert len(damping.flappers) == 2
    assert served(damping, catalog(A, C)) == ["a", "c"]
    assert damping.apply(catalog(A, C), OUT, WATCH, drained={}, guarded=frozenset())[0].kept == frozenset()


def test_kept_in_it_stays_critical_or_gone() -> None:
    damping = flapped(A, settings=IN)
    assert served(damping, catalog(A, row("c", CRITICAL)), IN) == ["a", "c"]
    assert served(damping, catalog(A), IN) == ["a", "c"]


@pytest.mark.parametrize(
    "lost", [row("c", Health.MAINTENANCE), row("c", CRITICAL, node_failed=True)], ids=["maintenance", "node"]
)
def test_kept_in_does_not_hold_what_people_took_out_or_what_went_with_its_node(lost: Registration) -> None:
    assert served(flapped(A, settings=IN), catalog(A, lost), IN) == ["a"]


def test_kept_in_does_not_hold_what_is_drained() -> None:
    assert served(flapped(A, settings=IN), catalog(A, row("c", CRITICAL)), IN, drained=frozenset("c")) == ["a"]


def test_where_the_guard_keeps_the_absent_kept_in_adds_none_of_them() -> None:
    assert served(flapped(A, settings=IN), catalog(A), IN, guarded=frozenset({"shop"})) == ["a"]


def test_for_the_guard_a_flapper_that_is_kept_out_is_present() -> None:
    settings = GuardSettings(min_instances=1, max_loss=0.1)
    now = catalog(A, B, C)
    presence = Presence.of(now)
    guard = Guard().judge(presence.addresses, settings, 0.0)
    damping, left = flapped(A, B).apply(now, OUT, WATCH, drained={}, guarded=frozenset())
    assert damping.kept == {FLAPPER}
    healthy = {"shop": resolve(left, {}, Settings(), Limits()).services["shop"].known}
    guard = guard.learn(healthy, settings, 1.0).judge(Presence.of(now, presence).addresses, settings, 2.0)
    assert guard.hold is None


def test_a_service_without_flappers_keeps_its_very_objects_and_one_with_them_its_last() -> None:
    now = Catalog(services={"shop": (A, B, C), "cart": (row("x", service="cart"),)})
    first, left = flapped(A, B).apply(now, OUT, WATCH, drained={}, guarded=frozenset())
    assert left.services["cart"] is now.services["cart"]
    alike = msgspec.structs.replace(now, services={name: (*rows,) for name, rows in now.services.items()})
    _, again = first.apply(alike, OUT, WATCH, drained={}, guarded=frozenset())
    assert again.services["shop"] is left.services["shop"]
    assert Damping().apply(now, OUT, WATCH, drained={}, guarded=frozenset())[1] is now


def test_what_is_remembered_ends_with_the_window() -> None:
    damping = flapped(A, B, times=2, began=100.0)
    assert list(damping.flipping) == [FLAPPER]
    assert damping.look(damping.seen or {}, OUT, WATCH, 161.0).flipping == {}
