"""What one blocking query has to remember, and the rules of its index (FACTS, "Blocking queries").

No clock, no network: the caller says how long an answer took. The design is consul-template's watch/view.go,
with content compared instead of indexes, and an index that moves on only when its value has been published.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from grayctl.consul.client import Reply

T = TypeVar("T")

# An answer within this many seconds to a question that Consul could have held means: do not spin. One that tells
# nothing new has longer: ten queries that each come back twice a second are all that the common limit allows.
_AT_ONCE, _SOON = 0.05, 0.5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# An index that keeps moving at once is churn, whether or not the content came back to what it was: wait a little and
# read many changes as one, but never long.
_LONGEST_CHURN_PAUSE = 0.2
_EARLY = 0.9


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with an answer.

    Attributes:
        drop: the index went backwards: believe nothing of it, forget the index, read again.
        news: the value differs from the one that is stored, or is the first.
        woke: the index moved, whether or not the content did.
        calm: this came too early, or soon and told nothing; ask again only through the limiter that all queries
            share.
        early: it came too early, and the index had not moved: whatever answers so has a fault.
        pause: seconds to wait before asking again.
    """

    drop: bool
    news: bool
    woke: bool
    calm: bool
    early: bool
    pause: float


# A long poll came back when its wait was over: by far the most answers of a Consul in peace.
_NOTHING_NEW = Verdict(drop=False, news=False, woke=False, calm=False, early=False, pause=0.0)


class Memory(Generic[T]):
    """One query's memory.

    Attributes:
        index: to wait on next; None asks without one, which Consul answers at once.
        value: what was published last; meaningless before `known`.
        known: whether there was ever an answer.
        suspect: the index was dropped and no long poll has been answered since.
    """

    def __init__(self) -> None:
        self.index: int | None = None
        self.value: T | None = None
        self.known = False
        self.suspect = False
        self._hasty = 0
        self._backwards = 0

    def judge(self, reply: Reply[T], *, elapsed: float, wait: float) -> Verdict:
        """Judge an answer that took `elapsed` seconds of the `wait` that it could have taken."""
        news = self.is_news(reply.value)
        if self.index is None:
            return Verdict(drop=False, news=news, woke=True, calm=False, early=False, pause=0.0)
        if reply.index < self.index:
            self._backwards += 1
            return Verdict(drop=True, news=False, woke=True, calm=True, early=False, pause=_growing(self._backwards))
        self._backwards = 0
        woke = reply.index != self.index
        early = not woke and elapsed < wait * _EARLY
        if not (news or woke or early):
            self._hasty = 0
            return _NOTHING_NEW
        self._hasty = self._hasty + 1 if elapsed < (_AT_ONCE if news else _SOON) else 0
        spins = not news and self._hasty > 0
        pause = _growing(self._hasty)
        return Verdict(
            drop=False,
            news=news,
            woke=woke,
            calm=early or spins,
            early=early,
            pause=min(pause, _LONGEST_CHURN_PAUSE) if news or woke else pause,
        )

    def is_news(self, value: T) -> bool:
        """Whether `value` differs from what was published."""
        return not self.known or (value is not self.value and value != self.value)

    def is_loss(self, value: T) -> bool:
        """Whether there was something and now there is nothing, which wants confirming."""
        return bool(self.known and self.value and not value)

    def store(self, value: T) -> None:
        """Keep a value; to be published before `settle`."""
        self.value = value
        self.known = True

    def settle(self, index: int) -> None:
        """Move the index on: what came with it has been stored and published, or was nothing new."""
        self.suspect = self.suspect and self.index is None
        self.index = index

    def forget(self) -> None:
        """Drop the index: after any error, on a new connection, when it went backwards. The value stays."""
        self.index = None
        self.suspect = True


def _growing(times: int) -> float:
    """Nothing the first time, then 0.1 s doubling up to 5 s."""
    return 0.0 if times <= 1 else min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(times - 2, 10))
