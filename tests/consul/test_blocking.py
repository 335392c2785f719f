"""The index rules, as a table: what one query makes of one answer. No clock, no network."""

import pytest

from grayctl.consul.blocking import Memory
from grayctl.consul.client import Reply


def settled(index: int = 10, value: str = "a") -> Memory[str]:
    memory: Memory[str] = Memory()
    memory.store(value)
    memory.settle(index)
    return memory


def test_the_first_answer_is_news_whatever_it_is() -> None:
    memory: Memory[str] = Memory()
    verdict = memory.judge(Reply(1, ""), elapsed=0.001, wait=50)
    assert (verdict.news, verdict.drop, verdict.pause, verdict.calm) == (True, False, 0.0, False)


@pytest.mark.parametrize(
    ("index", "value", "elapsed", "news", "drop", "woke", "calm"),
    [
        pytest.param(11, "b", 3.0, True, False, True, False, id="a change"),
        pytest.param(11, "a", 3.0, False, False, True, False, id="the output of a check"),
        pytest.param(10, "a", 50.5, False, False, False, False, id="the wait is over"),
        pytest.param(10, "a", 3.0, False, False, False, True, id="an agent that stops answers early"),
        pytest.param(9, "b", 3.0, False, True, True, True, id="backwards: believed in nothing"),
    ],
)
def test_one_answer(index: int, value: str, elapsed: float, *, news: bool, drop: bool, woke: bool, calm: bool) -> None:
    verdict = settled().judge(Reply(index, value), elapsed=elapsed, wait=50)
    assert (verdict.news, verdict.drop, verdict.woke, verdict.calm) == (news, drop, woke, calm)


def test_judging_moves_nothing() -> None:
    """The index moves on only after its value was stored and published."""
    memory = settled()
    memory.judge(Reply(11, "b"), elapsed=3, wait=50)
    assert (memory.index, memory.value) == (10, "a")
    memory.store("b")
    assert memory.index == 10
    memory.settle(11)
    assert memory.index == 11


def test_forgetting_keeps_the_value_and_stays_suspect_until_a_long_poll_is_answered() -> None:
    memory = settled()
    memory.forget()
    assert (memory.index, memory.value, memory.known, memory.suspect) == (None, "a", True, True)
    memory.settle(4)  # the read without an index
    assert memory.suspect
    memory.settle(5)  # the long poll
    assert not memory.suspect


def test_a_lower_index_is_taken_once_the_old_one_was_dropped() -> None:
    memory = settled(index=500)
    assert memory.judge(Reply(7, "b"), elapsed=1, wait=50).drop
    memory.forget()
    verdict = memory.judge(Reply(7, "b"), elapsed=0, wait=50)
    assert (verdict.drop, verdict.news) == (False, True)


def test_answers_at_once_slow_the_query_down_and_quiet_speeds_it_up_again() -> None:
    memory = settled()
    pauses = []
    for _ in range(10):
        pauses.append(memory.judge(Reply(10, "a"), elapsed=0.0, wait=50).pause)
        memory.settle(10)
    assert pauses[:4] == [0.0, 0.1, 0.2, 0.4]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0
    assert memory.judge(Reply(30, "a"), elapsed=1.0, wait=50).pause == 0.0


def test_a_wake_at_once_after_another_that_tells_nothing_is_asked_calmly() -> None:
    """A higher index at once, for ever; real news at once, for ever, are churn and go on."""
    memory = settled()
    assert not memory.judge(Reply(11, "a"), elapsed=9.0, wait=50).calm
    assert memory.judge(Reply(12, "a"), elapsed=0.0, wait=50).calm
    assert memory.judge(Reply(13, "a"), elapsed=0.4, wait=50).calm, "nor does a slow Consul let it spin"
    assert not memory.judge(Reply(14, "b"), elapsed=0.0, wait=50).calm


@pytest.mark.parametrize("period", [1, 2, 30])
def test_churn_is_never_slowed_down_for_long(period: int) -> None:
    """Also when what flaps is back at each look, or outputs alone change: the next answer may be news."""
    memory = settled()
    pauses = []
    for index in range(11, 41):
        value = str(index // period)
        pauses.append(memory.judge(Reply(index, value), elapsed=0.0, wait=50).pause)
        memory.store(value)
        memory.settle(index)
    assert max(pauses) == 0.2


def test_an_index_that_keeps_going_backwards_slows_the_query_down() -> None:
    memory = settled()
    pauses = []
    for _ in range(10):
        pauses.append(memory.judge(Reply(3, "a"), elapsed=0.0, wait=50).pause)
        memory.forget()
        memory.settle(10)
    assert pauses[0] == 0.0
    assert pauses[-1] == 5.0


@pytest.mark.parametrize(
    ("before", "after", "loss"), [("a", "", True), ("a", "b", False), ("", "", False), ("", "a", False)]
)
def test_a_loss_is_something_that_became_nothing(before: str, after: str, *, loss: bool) -> None:
    assert settled(value=before).is_loss(after) is loss
    assert not Memory[str]().is_loss(after)
