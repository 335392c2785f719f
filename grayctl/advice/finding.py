"""What a finding is, and the rule behind it."""

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How bad it is: a failure breaks something now or at the next reload, a warning costs something."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


class How(StrEnum):
    """What to do with the lines of an advice, relative to `where`."""

    NONE = ""
    INSIDE = "inside"  # the block that begins at `where`
    BESIDE = "beside"  # the directive at `where`, in the same block
    REPLACE = "replace"  # the directive at `where`
    REMOVE = "remove"  # the directive at `where`, with its block
    APPEND = "append"  # to the file `where`, outside every block
    SETTINGS = "settings"  # grayctl's settings file
    RELEASE = "release"  # the service's release
    AGENT = "agent"  # the Consul agent's configuration
    POLICY = "policy"  # the policy of grayctl's token
    UNIT = "unit"  # a systemd unit
    RUN = "run"  # a command
    DO = "do"  # words, where no line can be exact


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing found.

    Attributes:
        rule: the stable name, as in docs/check.md; empty for an `ok` that says what is as it should be.
        about: what it belongs to: settings, nginx, routes, machine, consul and the like.
        what: names the thing and says what is wrong with it.
        why: why that matters.
        where: `FILE:LINE` or a file, where there is one.
        how: what to do with `advice`.
        advice: the exact lines.
    """

    level: Level
    about: str
    what: str
    rule: str = ""
    why: str = ""
    where: str = ""
    how: How = How.NONE
    advice: str = ""


class Rule(msgspec.Struct, frozen=True):
    """What every finding of one kind has in common."""

    name: str
    level: Level
    about: str
    why: str

    def found(self, what: str, *, how: How = How.NONE, advice: str = "", where: str = "") -> Finding:
        """A finding of this rule."""
        return Finding(
            level=self.level,
            about=self.about,
            what=what,
            rule=self.name,
            why=self.why,
            where=where,
            how=how,
            advice=advice,
        )


def unit(name: str, *lines: str) -> str:
    """Lines for a systemd unit, with the command that opens it."""
    return "\n".join((f"# systemctl edit {name}", *lines))


def ok(about: str, what: str) -> Finding:
    """What is as it should be."""
    return Finding(level=Level.OK, about=about, what=what)
