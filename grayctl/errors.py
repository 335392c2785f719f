"""Every exception that grayctl raises on purpose.

    GrayctlError                 carries one message for a person: what, why, what to do
    ├── SettingsError            the settings file, an environment variable, a token file
    ├── CatalogFileError         an offline catalog
    ├── ReleaseError             a policy that may not be followed, with every problem in it
    ├── ListError                a file that can be no list
    ├── TemplateError            a template that does not parse or fails on one service's data
    ├── ConsulError              Consul did not give what was asked for
    │   ├── ConsulUnreachable    no connection, a timeout, a connection closed without a word
    │   ├── ConsulDenied         401 or 403: the token lacks a right, or is unknown
    │   ├── ConsulOverloaded     429: the agent's connection or rate limit
    │   ├── ConsulTooLarge       413: more than one value or one transaction may hold
    │   ├── ConsulUnavailable    5xx: no leader, agent shutting down
    │   └── ConsulProtocolError  an answer that is no answer: broken JSON, missing or senseless index
    ├── NginxError               nginx, or the machine around it, could not be asked
    │   └── NginxConfigError     the user's own configuration cannot be read
    ├── StateError               the state directory is damaged, read-only, full
    │   └── Locked               another grayctl writes this state directory
    └── ControlError             a command could not reach or persuade the daemon

An expected result (Unchanged, Rejected, RolledBack, ...) is a value of `grayctl.model.outcome`, never an
exception: an exception means that the machinery failed. `exit_code` is what a command ends with.
"""

from dataclasses import dataclass
from typing import ClassVar

from grayctl.wording import shown

EXIT_DONE = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_ROLLED_BACK = 3
EXIT_UNREACHABLE = 4


class GrayctlError(Exception):
    """The root; its text is a whole message for a person."""

    exit_code: ClassVar[int] = EXIT_REFUSED


class SettingsError(GrayctlError):
    """A setting is unknown, malformed or points to something unreadable."""

    exit_code = EXIT_USAGE


class CatalogFileError(GrayctlError):
    """An offline catalog cannot be read."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file.

    Attributes:
        line: from 1.
        column: from 1; 0 where the line and the path say enough.
        path: such as `routes[0].to`; empty for the file as a whole.
        value: what was written there, where that says something.
        wrong: what is wrong with it, as the rest of a sentence that begins with the value.
        allowed: what to write instead; may be empty.
        level: `error`, or `warning` and `info` from a lint.
    """

    file: str
    line: int
    path: str
    value: str
    wrong: str
    allowed: str = ""
    level: str = "error"
    column: int = 0

    @property
    def text(self) -> str:
        """The message: `FILE:LINE:COLUMN: PATH: 'VALUE' is wrong. What is allowed`."""
        where = f"{self.file}:{self.line}" + (f":{self.column}" if self.column else "")
        where += f": {self.path}" if self.path else ""
        level = "" if self.level == "error" else f"{self.level}: "
        value = f"{shown(self.value)} " if self.value else ""
        return f"{where}: {level}{value}{self.wrong}{'. ' if self.allowed else ''}{self.allowed}"


class ReleaseError(GrayctlError):
    """A policy may not be followed; its text is one line a problem, in the order of the file."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(one.text for one in problems))
        self.problems = problems


class ListError(GrayctlError):
    """A file can be no list."""


class TemplateError(GrayctlError):
    """A template does not parse, or fails on the data of one service."""


class ConsulError(GrayctlError):
    """Consul did not give what was asked for."""

    exit_code = EXIT_UNREACHABLE


class ConsulUnreachable(ConsulError):  # noqa: N818 -- reads as what it is: "Consul is unreachable"
    """No connection, a timeout, or a connection closed without an answer."""


class ConsulDenied(ConsulError):  # noqa: N818 -- as above
    """The token is unknown or lacks a right (401, 403)."""

    exit_code = EXIT_REFUSED


class ConsulOverloaded(ConsulError):  # noqa: N818 -- as above
    """The agent's connection or rate limit (429)."""


class ConsulTooLarge(ConsulError):  # noqa: N818 -- as above
    """More than one value or one transaction may hold (413)."""

    exit_code = EXIT_REFUSED


class ConsulUnavailable(ConsulError):  # noqa: N818 -- as above
    """A server error (5xx): no cluster leader, an agent that shuts down."""


class ConsulProtocolError(ConsulError):
    """An answer that cannot be understood: broken JSON, no index, an unexpected status."""


class NginxError(GrayctlError):
    """Nginx, or what it needs on this machine, could not be asked."""


class NginxConfigError(NginxError):
    """The user's own nginx configuration cannot be read."""


class StateError(GrayctlError):
    """The state directory is damaged, read-only or full."""


class Locked(StateError):  # noqa: N818 -- as above
    """Another grayctl holds the state directory."""


class ControlError(GrayctlError):
    """The daemon's control socket did not answer, or refused."""

    exit_code = EXIT_UNREACHABLE
