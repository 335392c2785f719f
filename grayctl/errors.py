"""Every exception that grayctl raises on purpose.

    GrayctlError                 carries one message for a person: what, why, what to do
    ├── SettingsError            the settings file, an environment variable, a token file
    ├── CatalogFileError         an offline catalog
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

from typing import ClassVar

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
