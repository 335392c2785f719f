"""Says of a predicate whether it holds for a request, by the words of its docstrings and docs/releases.md alone."""

import ipaddress
import re
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from grayctl.model.release import All, AnyOf, Condition, Not, Operator, Predicate, Source

if TYPE_CHECKING:
    from collections.abc import Callable

Request = dict[str, Any]
"""Input, as `Input.text` writes it -> its value; of region and device the set."""
LISTS = {"l1": {"a", "5"}, "l2": {"b"}, "a": {"a"}}
BIG = str(10**40)

HEADERS = ('header("X")', 'cookie("y")', 'query("z")', "identity")
values = st.sampled_from(
    ["", "a", "b", "a,b", " b ,a", "5", "+005", "-0", "0", "-7", "18.5", "0x5", BIG, "/a", "\uff15"]
)
requests = st.fixed_dictionaries(
    {
        **dict.fromkeys(HEADERS, values),
        "path": st.sampled_from(["/", "/a", "/a/b"]),
        "method": st.sampled_from(["GET", "POST"]),
        "host": st.sampled_from(["example.com", "a.example.com", "other"]),
        "port": st.sampled_from(["80", "8080"]),
        "client_ip": st.sampled_from(["10.1.2.3", "11.0.0.1", "2001:db8::1"]),
        "region": st.sets(st.sampled_from(["here", "there"])),
        "device": st.sets(st.sampled_from(["ios", "mobile", "bot"])),
    }
)


def integer(value: str) -> int | None:
    return int(value) if re.fullmatch(r"[+-]?[0-9]+", value) else None


def evaluate(predicate: Predicate, request: Request) -> bool:
    """What a predicate says of a request, by the words of its docstrings alone."""
    if isinstance(predicate, All):
        return all(evaluate(one, request) for one in predicate.parts)
    if isinstance(predicate, AnyOf):
        return any(evaluate(one, request) for one in predicate.parts)
    if isinstance(predicate, Not):
        return not evaluate(predicate.part, request)
    return _atom(predicate, request[predicate.input.text])


def _atom(one: Condition, value: Any) -> bool:
    first = one.values[0] if one.values else ""
    if one.operator is Operator.IN and one.input.source in {Source.REGION, Source.DEVICE}:
        return bool(value & set(one.values))
    if one.operator is Operator.IN and one.input.source is Source.CLIENT_IP:
        return any(ipaddress.ip_address(value) in ipaddress.ip_network(network) for network in one.values)
    number = integer(value)
    judge: dict[Operator, Callable[[], bool]] = {
        Operator.LESS: lambda: number is not None and number < int(first),
        Operator.LESS_OR_EQUAL: lambda: number is not None and number <= int(first),
        Operator.GREATER: lambda: number is not None and number > int(first),
        Operator.GREATER_OR_EQUAL: lambda: number is not None and number >= int(first),
        Operator.IN: lambda: value in one.values,
        Operator.NUMBER_IN: lambda: number is not None and str(number) in one.values,
        Operator.PRESENT: lambda: bool(value != ""),
        Operator.HAS: lambda: first in [part.strip() for part in value.split(",")],
        Operator.IN_LIST: lambda: value in LISTS[first],
        Operator.REGEX: lambda: value != "" and re.search(first, value) is not None,
        Operator.SUFFIX: lambda: bool(value.endswith(first)),
        Operator.PREFIX: lambda: _begins(one.input.source, value, first),
    }
    return judge[one.operator]()


def _begins(source: Source, value: str, prefix: str) -> bool:
    if source is Source.PATH and not prefix.endswith("/"):
        return value == prefix or value.startswith(prefix + "/")
    return value.startswith(prefix)
