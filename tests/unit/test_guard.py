"""The guard, as tables with invented times: what is lost at once is kept, what leaves one by one is not."""

from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grayctl.model.catalog import Catalog, Health, Registration
from grayctl.model.plan import Server, Serving
from grayctl.model.tokens import Address
from grayctl.policy.admission import present
from grayctl.policy.guard import Guard
from grayctl.policy.resolve import Limits, resolve
from grayctl.settings import Duration, GuardSettings, ServiceSettings, Settings

SETTINGS = GuardSettings()  # more than a half of at least 10, within 30 s, for 5 minutes


def address(number: int) -> Address:
    return Address("10.0.0.1", 8000 + number)


def addresses(numbers: Iterable[int]) -> frozenset[Address]:
    return frozenset(map(address, numbers))


def servers(numbers: Iterable[int]) -> tuple[Server, ...]:
    return tuple(sorted(Server(address(number), instance=f"i{number}") for number in numbers))


class Site:
    """A guard and what its services serve, one look after another. Every instance that is present is healthy."""

    def __init__(self, settings: GuardSettings = SETTINGS) -> None:
        self.settings = settings
        self.guard = Guard()

    def look(self, at: float, **services: Iterable[int]) -> dict[str, list[int]]:
        """Judge and learn; what the guard keeps, as numbers."""
        there = {name: tuple(numbers) for name, numbers in services.items()}
        self.guard = self.guard.judge({name: addresses(some) for name, some in there.items()}, self.settings, at)
        kept = self.guard.kept()
        healthy = {name: (*servers(some), *kept.get(name, ())) for name, some in there.items()}
        self.guard = self.guard.learn(healthy, self.settings, at)
        return {name: [server.address.port - 8000 for server in some] for name, some in kept.items()}


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (12, 5, True),  # 7 of 12
        (12, 6, False),  # a half is not more than a half
        (9, 0, False),  # too few to tell a failure from a decision
        (10, 0, True),
        (100, 49, True),
        (100, 50, False),
    ],
)
def test_more_than_max_loss_of_at_least_min_instances_is_kept(before: int, after: int, *, kept: bool) -> None:
    site = Site()
    site.look(0, shop=range(before))
    expected = {"shop": list(range(after, before))} if kept else {}
    assert site.look(1, shop=range(after)) == expected
    assert (site.guard.hold is not None) == kept


def test_it_counts_over_the_whole_catalog() -> None:
    """A service of three that vanishes is no mass disappearance among thirty; a site that vanishes is."""
    site = Site()
    site.look(0, shop=range(3), cart=range(100, 127))
    assert site.look(1, shop=[], cart=range(100, 127)) == {}
    assert site.look(2, shop=[], cart=range(100, 110)) == {"cart": list(range(110, 127)), "shop": [0, 1, 2]}


def test_a_redeployment_under_new_addresses_is_no_loss() -> None:
    site = Site()
    site.look(0, shop=range(20))
    assert site.look(1, shop=range(100, 120)) == {}


def test_nodes_that_fail_one_after_another_count_together() -> None:
    site = Site()
    site.look(0, shop=range(12))
    for lost in range(1, 7):
        assert site.look(lost, shop=range(lost, 12)) == {}
    assert site.look(7, shop=range(7, 12)) == {"shop": list(range(7))}


def test_a_slow_retreat_is_believed() -> None:
    site = Site()
    for lost in range(12):
        assert site.look(31.0 * lost, shop=range(lost, 12)) == {}


def test_while_it_holds_new_instances_are_served_beside_the_kept_ones() -> None:
    site = Site()
    site.look(0, shop=range(12))
    assert site.look(1, shop=[]) == {"shop": list(range(12))}
    assert site.look(2, shop=[50]) == {"shop": list(range(12))}
    assert site.look(3, shop=range(50, 61)) == {"shop": list(range(12))}
    # as many are there again: what is still absent was replaced
    assert site.look(4, shop=range(50, 62)) == {}


def test_those_who_come_back_one_after_another_do_not_give_up_the_others() -> None:
    """Consul lost its state and everybody registers again: whoever is last lives as well as the first."""
    site = Site()
    site.look(0, shop=range(12))
    for back in range(12):
        assert site.look(1 + back, shop=range(back)) == {"shop": list(range(back, 12))}
    assert site.look(20, shop=range(12)) == {}
    assert site.guard.hold is None


def test_what_comes_back_is_kept_no_more() -> None:
    site = Site()
    site.look(0, shop=range(12))
    site.look(1, shop=[])
    assert site.look(2, shop=[0, 1, 2]) == {"shop": list(range(3, 12))}


def test_it_ends_when_it_has_lasted() -> None:
    site = Site()
    site.look(0, shop=range(12))
    site.look(1, shop=range(2))
    assert site.guard.hold is not None
    assert (site.guard.hold.since, site.guard.hold.until) == (1, 301)
    assert site.look(300.9, shop=range(2)) == {"shop": list(range(2, 12))}
    assert site.look(301, shop=range(2)) == {}
    assert site.look(302, shop=range(2)) == {}, "what was believed is not held again"


def test_it_ends_when_somebody_accepts_it() -> None:
    site = Site()
    site.look(0, shop=range(12))
    site.look(1, shop=range(2))
    site.guard = site.guard.accept(2)
    assert site.look(3, shop=range(2)) == {}
    assert site.guard.hold is None


def test_a_restart_takes_what_was_served_for_present() -> None:
    site = Site()
    site.guard = Guard.after_start({"shop": servers(range(12))}, 1000)
    kept = site.look(1000, shop=range(2))
    assert kept == {"shop": list(range(2, 12))}


def test_an_instance_that_its_own_check_took_out_before_is_not_brought_back() -> None:
    """It was present and not healthy when the others were lost."""
    site = Site()
    site.look(0, shop=range(12))
    site.guard = site.guard.judge({"shop": addresses(range(12))}, SETTINGS, 1)
    site.guard = site.guard.learn({"shop": servers(range(1, 12))}, SETTINGS, 1)
    assert site.look(2, shop=[]) == {"shop": list(range(1, 12))}


def test_a_forgotten_service_counts_no_more() -> None:
    site = Site()
    site.look(0, shop=range(12), cart=range(100, 105))
    site.guard = site.guard.forget("shop")
    assert site.look(1, cart=range(100, 105)) == {}


@given(
    st.lists(st.tuples(st.floats(0.1, 40), st.frozensets(st.integers(0, 25))), min_size=1, max_size=30),
)
def test_whatever_comes_and_goes(steps: list[tuple[float, frozenset[int]]]) -> None:
    """Nothing present is ever kept twice, nothing is kept without a hold, and calm ends every hold."""
    site, at, seen = Site(), 0.0, set[int]()
    for pause, numbers in steps:
        at += pause
        seen |= numbers
        kept = set(site.look(at, shop=sorted(numbers)).get("shop", []))
        assert not kept & numbers
        assert kept <= seen
        assert not kept or site.guard.hold is not None
    last = sorted(steps[-1][1])
    site.look(at + SETTINGS.hold, shop=last)
    assert site.look(at + 2 * SETTINGS.hold, shop=last) == {}


# ---------------------------------------------------------------- who is present, and what the Plan makes of it


def registration(number: int, **fields: object) -> Registration:
    one = Registration(service="shop", id=f"i{number}", address="10.0.0.1", port=8000 + number)
    return msgspec.structs.replace(one, **fields)


def test_a_critical_instance_is_present_and_one_on_a_dead_node_is_not() -> None:
    some = [
        registration(0),
        registration(1, health=Health.CRITICAL),
        registration(2, health=Health.CRITICAL, node_failed=True),
        registration(3, port=0),
        registration(4, address="name.example"),
    ]
    assert present(some, {"name.example": ("10.0.0.9",)}) == addresses([0, 1]) | {Address("10.0.0.9", 8004)}


@pytest.mark.parametrize("when_empty", ["keep_last", "reject"])
def test_what_is_guarded_is_served_beside_what_is_healthy(when_empty: str) -> None:
    settings = Settings(services={"shop": ServiceSettings(when_empty=when_empty)})
    catalog = Catalog(services={"shop": (registration(0),)})
    plan = resolve(catalog, {}, settings, Limits(), guarded={"shop": servers([1, 2])}).services["shop"]
    assert plan.upstreams[0].servers == servers([0, 1, 2])
    assert (plan.serving, plan.guarded) == (Serving.LIVE, servers([1, 2]))
    assert plan.notices == ("2 absent instances are kept by the guard",)
    alone = resolve(Catalog(services={"shop": ()}), {}, settings, Limits(), guarded={"shop": servers([1])})
    assert (alone.services["shop"].serving, alone.services["shop"].known) == (Serving.KEPT, servers([1]))


def test_the_window_is_a_setting() -> None:
    site = Site(GuardSettings(window=Duration(5)))
    site.look(0, shop=range(12))
    site.look(1, shop=range(4, 12))
    assert site.look(7, shop=range(7, 12)) == {}
