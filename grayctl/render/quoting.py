"""How each kind of token is written in nginx's language; the only way from a value to a configuration."""

import math

from jinja2 import Undefined
from markupsafe import Markup

from grayctl.model.tokens import Address, Expression, Note, Path, Seconds, Variable, Word


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
    match value:
        case Word(text) | Expression(text):
            quoted = text
        case Path(text):
            quoted = f'"{text}"'
        case Variable(name):
            quoted = f"${name}"
        case Address():
            quoted = value.text
        case Seconds(seconds):
            quoted = f"{math.ceil(seconds)}s"
        case Note():
            quoted = value.printable
        case int() if not isinstance(value, bool):
            quoted = str(value)
        case Undefined():
            quoted = str(value)  # raises, and names what is undefined
        case _:
            raise TypeError(
                f"a template may print tokens and integers only, not {type(value).__name__} {value!r}; "
                "docs/templates.md lists the variables and their types"
            )
    return quoted
