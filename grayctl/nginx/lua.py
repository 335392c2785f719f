"""Lua in nginx.conf, read as Lua: braces in its strings, comments and long brackets close no block.

Crossplane's own reader of Lua takes `[[}]]` for the end of the block, and does not know the newer directives; one such
line would make the user's whole nginx.conf unreadable.
"""

import re
from collections.abc import Iterator

from crossplane.lexer import register_external_lexer

# lua-nginx-module and stream-lua-nginx-module, README
_PHASES = """
init init_worker exit_worker set rewrite server_rewrite access content header_filter body_filter log balancer preread
precontent proxy_ssl_certificate proxy_ssl_verify ssl_client_hello ssl_certificate ssl_session_fetch ssl_session_store
"""
DIRECTIVES = tuple(f"{phase}_by_lua_block" for phase in _PHASES.split())
_LONG = re.compile(r"(?P<comment>--)?\[(?P<level>=*)\[\Z")
_LONGEST_OPENING = 16

_Chars = Iterator[tuple[str, int]]


def teach() -> None:
    """Make crossplane read Lua blocks with `tokens`."""
    register_external_lexer(directives=DIRECTIVES, lexer=tokens)


def tokens(chars: _Chars, directive: str) -> Iterator[tuple[str, int, bool]]:  # noqa: ARG001 -- crossplane's signature
    """What follows a directive's name, as crossplane's lexer yields it: the arguments, the code as one text, `;`.

    Args:
        chars: (text, line), where an escape is one text of two characters.
        directive: its name.
    """
    flat = ((char, line) for text, line in chars for char in text)
    head = ""
    for char, line in flat:
        if char in "{;":
            yield from ((word, line, False) for word in head.split())
            if char == "{":
                yield _code(flat), line, True
            yield ";", line, False
            return
        head += char


def _code(chars: _Chars) -> str:
    """The code up to the brace that closes the block; what there is, should none do so."""
    code: list[str] = []
    depth, closing = 1, ""  # what ends the string or comment that we are in
    escaped = False
    for char, _ in chars:
        code.append(char)
        tail = "".join(code[-_LONGEST_OPENING:])
        if closing in {"'", '"'}:
            closing = "" if char == closing and not escaped else closing
            escaped = char == "\\" and not escaped
        elif (opens := _LONG.search(tail)) and (not closing or (closing == "\n" and opens["comment"])):
            closing = f"]{opens['level']}]"
        elif closing:
            closing = "" if tail.endswith(closing) else closing
        elif tail.endswith("--"):
            closing = "\n"
        elif char in "'\"":
            closing = char
        elif char in "{}":
            depth += 1 if char == "{" else -1
            if not depth:
                return "".join(code[:-1])
    return "".join(code)
