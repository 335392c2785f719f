"""What differs between two states of the world, told by identity.

Whoever makes nothing anew for what stayed as it was lets everybody after him skip it, with one comparison a name.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TypeVar

_Value = TypeVar("_Value")


def differing(now: Mapping[str, object], then: Mapping[str, object]) -> set[str]:
    """The names that are new or gone, or whose value is another object; no value may be None."""
    if now is then:
        return set()
    found = {name for name, one in now.items() if then.get(name) is not one}
    new = sum(name not in then for name in found)
    return found | (then.keys() - now.keys()) if len(now) - new < len(then) else found


def renewed(then: Mapping[str, _Value], stale: AbstractSet[str], made: Mapping[str, _Value]) -> dict[str, _Value]:
    """`then` without what is stale, and what was made instead; a value that was replaced keeps its place."""
    found = {**then, **made}
    for name in stale - made.keys():
        found.pop(name, None)
    return found
