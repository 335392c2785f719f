"""Services without a long poll, in invented time: who is looked at when, and who gets a place."""

import asyncio
from collections.abc import Iterable, Sequence

import pytest

from grayctl.consul.cold import Lookout, named_by, rest_after
from grayctl.consul.decode import Check
from grayctl.consul.places import Places
from grayctl.model.catalog import Registration

FOUND = 4.5  # of the 5 s that PROMISES gives a change of a cold service, what the watcher may take


def nobody(_: str) -> bool:
    return False


def places(number: int, names: Iterable[str]) -> Places[str]:
    found: Places[str] = Places(number)
    for name in names:
        found.enter(name)
    return found


def rotate(some: Places[str]) -> None:
    """Every query comes back once, with nothing new."""
    for one in sorted(some.hot):
        some.came_back(one, nobody)


# ---------------------------------------------------------------- places


def test_who_comes_first_has_a_place() -> None:
    some = places(2, "abc")
    assert (some.hot, list(some.cold)) == ({"a", "b"}, ["c"])


def test_nobody_gives_way_while_nothing_changes() -> None:
    some = places(2, "abcd")
    assert [some.came_back(one, nobody) for one in "ab"] == ["a", "b"]


def test_who_comes_back_gives_way_to_who_changed_last() -> None:
    some = places(2, "abcd")
    for one in "dc":
        some.changed(one)
    assert some.came_back("a", nobody) == "c"
    assert some.came_back("b", nobody) == "d"
    assert (some.hot, list(some.cold)) == ({"c", "d"}, ["a", "b"])


def test_who_changed_later_keeps_its_place() -> None:
    some = places(2, "abc")
    some.changed("c")
    some.changed("a")
    assert some.came_back("a", nobody) == "a"
    assert some.came_back("b", nobody) == "c"
    assert some.came_back("c", nobody) == "c", "the quiet ones are no heirs"


def test_in_the_end_those_that_changed_last_have_the_places() -> None:
    some = places(3, "abcdefgh")
    for one in "hagbfcead":
        some.changed(one)
    for _ in range(3):
        rotate(some)
    assert some.hot == {"e", "a", "d"}


def test_who_is_being_read_is_passed_over() -> None:
    some = places(1, "abc")
    for one in "bc":
        some.changed(one)
    assert some.came_back("a", lambda one: one == "c") == "b"


def test_who_left_keeps_its_place_until_its_query_comes_back() -> None:
    """Its connection is the agent's until then."""
    some = places(2, "ab")
    some.leave("a")
    assert not some.enter("c")
    assert some.came_back("a", nobody) == "c"
    assert some.came_back("b", nobody) == "b"
    some.leave("b")
    assert some.came_back("b", nobody) is None, "nobody wants it"
    assert some.enter("d")


def test_who_left_is_nobodys_heir() -> None:
    some = places(1, "abc")
    some.changed("b")
    some.leave("b")
    assert some.came_back("a", nobody) == "a"


# ---------------------------------------------------------------- sweeps


@pytest.mark.parametrize(
    ("took", "rest"),
    [
        pytest.param(0.0, 1.0, id="cheap: once a second"),
        pytest.param(0.13, 1.0, id="1000 services"),
        pytest.param(0.6, 1.8, id="4500: a quarter of the time"),
        pytest.param(1.0, 2.0, id="no longer than the promise allows"),
        pytest.param(1.5, 1.5, id="half the time at most"),
        pytest.param(5.0, 5.0, id="and that however long it takes"),
    ],
)
def test_the_rest_after_a_sweep(took: float, rest: float) -> None:
    assert rest_after(took) == pytest.approx(rest)


def test_who_changed_just_after_its_turn_is_found_in_time() -> None:
    for milliseconds in range(1500):
        took = milliseconds / 1000
        assert took + rest_after(took) + took <= FOUND


class Looking:
    """A lookout over `names` in invented time; a look takes `cost` seconds."""

    def __init__(self, *names: str, cost: float = 0.0) -> None:
        self.now = 0.0
        self.looks: list[tuple[float, str]] = []
        self.failing: set[str] = set()
        self.cost = cost
        self.lookout: Lookout[str] = Lookout(
            self.look, self.sift, lambda: names, clock=lambda: self.now, sleep=self.sleep
        )
        self.sifted: list[Sequence[str]] = []
        self.unmoved: set[str] = set()
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    async def look(self, name: str) -> bool:
        self.looks.append((self.now, name))
        self.now += self.cost
        return name not in self.failing

    async def sift(self, names: Sequence[str]) -> Sequence[str]:
        self.sifted.append(names)
        return [name for name in names if name not in self.unmoved]

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self.now + seconds, woken))
        await woken.wait()

    async def pass_by(self, seconds: float) -> None:
        """Let so many seconds pass."""
        until = self.now + seconds
        while True:
            for _ in range(50):
                await asyncio.sleep(0)
            due = min(self._sleepers, key=lambda one: one[0], default=None)
            if due is None or due[0] > until:
                self.now = max(self.now, until)
                return
            self._sleepers.remove(due)
            self.now = max(self.now, due[0])
            due[1].set()

    def seen(self) -> list[str]:
        """Who was looked at since the last call."""
        found = [name for _, name in self.looks]
        self.looks.clear()
        return found


async def test_suspects_alone_are_looked_at_and_at_once() -> None:
    here = Looking("a", "b", "c")
    task = asyncio.create_task(here.lookout.run())
    here.lookout.suspect(["b"])
    await here.pass_by(0)
    assert here.looks == [(0.0, "b")]
    await here.pass_by(60)
    assert here.seen() == ["b"]
    task.cancel()


async def test_nothing_stirs_nobody_is_looked_at() -> None:
    here = Looking("a", "b")
    task = asyncio.create_task(here.lookout.run())
    await here.pass_by(3600)
    assert here.looks == []
    task.cancel()


async def test_a_sweep_at_once_and_the_next_a_second_later() -> None:
    here = Looking("a", "b")
    task = asyncio.create_task(here.lookout.run())
    for _ in range(5):
        here.lookout.stir()
        await here.pass_by(0.1)
    assert here.looks == [(0.0, "a"), (0.0, "b")]
    await here.pass_by(1)
    assert here.looks[2:] == [(1.0, "a"), (1.0, "b")]
    await here.pass_by(10)
    assert len(here.looks) == 4
    task.cancel()


async def test_a_sweep_asks_about_a_few_in_one_go_and_looks_at_those_that_may_have_moved() -> None:
    names = [f"s{number}" for number in range(20)]
    here = Looking(*names)
    here.unmoved = {*names} - {"s3", "s11"}
    task = asyncio.create_task(here.lookout.run())
    here.lookout.stir()
    await here.pass_by(0)
    assert [len(some) for some in here.sifted] == [8, 8, 4]
    assert sorted(here.seen()) == ["s11", "s3"]
    here.lookout.suspect(["s5"])
    await here.pass_by(0)
    assert here.seen() == ["s5"], "a suspect is looked at whatever a question in one go would say"
    task.cancel()


async def test_a_suspect_does_not_wait_for_the_sweep_to_rest() -> None:
    here = Looking(*(f"s{number}" for number in range(1000)), cost=0.001)
    task = asyncio.create_task(here.lookout.run())
    here.lookout.stir()
    await here.pass_by(0)
    here.seen()
    here.lookout.suspect(["s7"])
    await here.pass_by(0)
    assert here.seen() == ["s7"]
    task.cancel()


async def test_constant_churn_leaves_most_of_the_time_free() -> None:
    here = Looking(*(f"s{number}" for number in range(4500)), cost=0.000133)
    task = asyncio.create_task(here.lookout.run())
    for _ in range(600):
        here.lookout.stir()
        await here.pass_by(0.1)
    assert len(here.looks) * here.cost / here.now < 0.27
    task.cancel()


async def test_who_could_not_be_read_is_looked_at_again_alone() -> None:
    here = Looking("a", "b")
    here.failing = {"b"}
    task = asyncio.create_task(here.lookout.run())
    here.lookout.stir()
    await here.pass_by(0)
    assert here.seen() == ["a", "b"]
    await here.pass_by(10)
    assert here.seen() == ["b"] * 3
    here.failing = set()
    await here.pass_by(10)
    assert here.seen() == ["b"]
    task.cancel()


# ---------------------------------------------------------------- who is meant


def check(service: str, node: str = "n1") -> Check:
    return Check(node=node, check_id="c", service_name=service, status="critical")


def test_a_check_names_its_service_and_a_nodes_check_all_that_are_there() -> None:
    known = {
        "shop": (Registration(service="shop", id="1", node="n1"),),
        "cart": (Registration(service="cart", id="1", node="n2"), Registration(service="cart", id="2", node="n1")),
        "mail": (Registration(service="mail", id="1", node="n2"),),
    }
    assert named_by([check("shop")], (), known) == {"shop"}
    assert named_by([check("")], (), known) == {"shop", "cart"}
    assert named_by([], {"n2"}, known) == {"cart", "mail"}
    assert named_by([], (), known) == frozenset()
