"""Transactions: several keys change together, or none does."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from grayctl.errors import ConsulDenied, ConsulProtocolError, ConsulTooLarge

MAX_OPERATIONS = 64
MAX_BYTES = 512 * 1024  # of the whole request, in which values are base64; the agent's default of txn_max_req_len
MAX_VALUE = 512 * 1024  # of one key; the agent's default of kv_max_value_size
_DENIED = "Permission denied"
# What Consul 1.8 to 1.20 say of a check that does not hold
_STALE = ("index is stale", "current modify index", "doesn't exist", "exists")


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a transaction on one key; make it by the functions below."""

    verb: str
    key: str
    value: bytes = b""
    index: int = 0


def write(key: str, value: bytes, *, seen: int) -> Operation:
    """Write `key` if its ModifyIndex is still `seen` (0: if it does not exist)."""
    return Operation("cas", key, value, seen)


def check(key: str, *, seen: int) -> Operation:
    """Change nothing, but hold only if the key's ModifyIndex is still `seen` (0: if it does not exist)."""
    return Operation("check-index", key, index=seen) if seen else Operation("check-not-exists", key)


def remove(key: str, *, seen: int) -> Operation:
    """Delete `key` if its ModifyIndex is still `seen`; one that is gone already is fine."""
    return Operation("delete-cas", key, index=seen)


def prune(key: str) -> Operation:
    """Delete `key`, whatever it holds; one that is gone already is fine."""
    return Operation("delete", key)


def body(operations: Sequence[Operation]) -> bytes:
    """The request.

    Raises:
        ConsulTooLarge: more than Consul takes in one transaction.
    """
    encoded = _encoded(operations)
    if not _fits(operations, encoded):
        keys = f"{operations[0].key} and {len(operations) - 1} more keys" if operations else "no key"
        raise ConsulTooLarge(
            f"{keys}: {len(operations)} operations of {len(encoded)} bytes; Consul takes {MAX_OPERATIONS} of "
            f"{MAX_BYTES} bytes in one transaction. Make it smaller, or do it in parts"
        )
    return encoded


def fits(operations: Sequence[Operation]) -> bool:
    """Whether Consul takes it in one transaction."""
    return _fits(operations, _encoded(operations))


def _encoded(operations: Sequence[Operation]) -> bytes:
    return msgspec.json.encode(
        [{"KV": {"Verb": one.verb, "Key": one.key, "Value": one.value, "Index": one.index}} for one in operations]
    )


def _fits(operations: Sequence[Operation], encoded: bytes) -> bool:
    return len(operations) <= MAX_OPERATIONS and len(encoded) <= MAX_BYTES


class _Fault(msgspec.Struct, rename="pascal"):
    op_index: int
    what: str


class _Refusal(msgspec.Struct, rename="pascal"):
    errors: tuple[_Fault, ...] = ()


def stale(operations: Sequence[Operation], refusal: bytes) -> tuple[str, ...]:
    """The keys whose check did not hold, as a refused transaction's answer tells.

    Raises:
        ConsulDenied: the token lacks a right; it names the keys.
        ConsulProtocolError: it was refused for another reason.
        msgspec.DecodeError: this is no such answer.
    """
    keys = {number: operation.key for number, operation in enumerate(operations)}
    found = [(keys.get(one.op_index, ""), one.what) for one in msgspec.json.decode(refusal, type=_Refusal).errors]
    denied = sorted({key for key, what in found if what.startswith(_DENIED)})
    if denied:
        raise ConsulDenied(f"{', '.join(denied)}: the token may not write this. Use one that may: see examples/acl")
    other = [what for _, what in found if not any(phrase in what for phrase in _STALE)]
    if other or not found:
        raise ConsulProtocolError(f"{operations[0].key}: Consul refused the transaction: {'; '.join(other)}")
    return tuple(sorted({key for key, _ in found}))
