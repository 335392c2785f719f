"""How each kind of token is written in nginx's language; the only way from a value to a configuration."""

import math
from collections.abc import Callable
from typing import Any

from jinja2 import Undefined
from markupsafe import Markup

from grayctl.model.tokens import (
    Address,
    Cidr,
    Expression,
    Joined,
    MapKey,
    Note,
    Path,
    Percent,
    Regex,
    Seconds,
    Text,
    Variable,
    Word,
)


def finalize(value: object) -> Markup:
    """Print a token for nginx; Jinja2 calls this for everything between `{{` and `}}`.

    The result is marked as the template's own text, so that macros and blocks, whose output comes back here,
    pass, while a bare string does not.

    Raises:
        TypeError: on a bare string and on everything else that is no token.
    """
    return value if isinstance(value, Markup) else Markup(quote(value))  # noqa: S704 -- nginx's language, not HTML


def quote(value: object) -> str:
    """A token in nginx's language; the token's own class has checked that it is harmless there.

    Raises:
        TypeError: when `value` is no token.
        UndefinedError: when it is a variable that nobody defined.
    """
    if isinstance(value, Undefined):
        return str(value)  # raises, and names what is undefined
    write = _WRITTEN.get(type(value))
    if write is None:
        raise TypeError(
            f"a template may print tokens and integers only, not {type(value).__name__} {value!r}; "
            "docs/templates.md lists the variables and their types"
        )
    return write(value)


def _key(key: MapKey) -> str:
    # nginx takes one backslash off, and what follows is neither a regex nor a keyword such as `default`
    return f'"{_escaped(chr(92) + key.text)}"' if key.text else '""'


def _regex(regex: Regex) -> str:
    return f'"{"~*" if regex.ignore_case else "~"}{_escaped(regex.pattern)}"'


def _joined(value: Joined) -> str:
    if len(value.parts) == 1 and isinstance(value.parts[0], Variable):
        return f"${value.parts[0].name}"
    parts = (f"${{{one.name}}}" if isinstance(one, Variable) else _escaped(one.text) for one in value.parts)
    return f'"{"".join(parts)}"'


def _escaped(text: str) -> str:
    r"""The inside of a double-quoted argument: nginx takes a backslash before `\ " n r t` back, and nothing else."""
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


_WRITTEN: dict[type, Callable[[Any], str]] = {
    int: str,
    Word: lambda token: token.text,
    # `${x}` bare is one argument for nginx and two for other readers of its language
    Expression: lambda token: f'"{token.text}"' if "{" in token.text else token.text,
    Cidr: lambda token: token.text,
    Path: lambda token: f'"{token.text}"',
    Variable: lambda token: f"${token.name}",
    Address: lambda token: token.text,
    Seconds: lambda token: f"{math.ceil(token.value)}s",
    Percent: lambda token: f"{token.hundredths // 100}.{token.hundredths % 100:02}%",
    Text: lambda token: f'"{_escaped(token.text)}"',
    MapKey: _key,
    Regex: _regex,
    Joined: _joined,
    Note: lambda token: token.printable,
}
