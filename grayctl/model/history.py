"""What is kept of every act on a release: who, when, why, and each text that was in force or staged."""

from enum import StrEnum

import msgspec


class Action(StrEnum):
    """What was done."""

    APPLY = "apply"
    EDIT = "edit"  # the key was edited by hand, and grayctl found it
    ROLLBACK = "rollback"
    DELETE = "delete"
    STAGE = "stage"
    WIDEN = "widen"
    PROMOTE = "promote"
    DISCARD = "discard"


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """Who does something, and why.

    Attributes:
        author: the accessor of a Consul token; without ACLs the user of the machine; empty when nobody knows.
        reason: in the author's words.
        trace_id: letters and digits; one for all that one command did.
        time: wall clock, seconds since the epoch.
    """

    author: str
    reason: str
    trace_id: str
    time: float


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One text that a policy had: `<prefix>/history/<service>/<number>`.

    Attributes:
        number: from 1, one more for each, never used twice.
        revision: of the text.
        text: the policy; empty when it was deleted.
    """

    number: int
    action: Action
    revision: str
    text: str
    act: Act


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One act: `<prefix>/audit/<service>/<time>-<number>-<trace id>`.

    Attributes:
        number: of the version in the history that is in force, or staged, since then; 0 for a discard.
        revision: of the policy that is in force, or staged, since then; empty when it was deleted or discarded.
    """

    service: str
    action: Action
    number: int
    revision: str
    act: Act
