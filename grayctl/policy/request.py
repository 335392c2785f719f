"""One request, and what nginx's variables say of it: the world in which `explain` asks.

Sources: ngx_http_variables.c, ngx_http_parse.c (ngx_http_parse_complex_uri, ngx_http_parse_multi_header_lines,
ngx_http_arg) of nginx 1.22 and 1.29.
"""

import re
from dataclasses import dataclass, field

JOINS_REPEATED_HEADERS = (1, 23)
"""The first version of nginx that joins a repeated header by ", "; before it the first one counts."""

_JOINED_EVER = {"cookie": "; ", "x_forwarded_for": ", "}
_FIRST_EVER = frozenset({"user_agent", "host"})
_HEADER_NAME = re.compile(rb"[A-Za-z0-9-]+\Z")  # others nginx drops (underscores_in_headers off)


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sends, as bytes where clients may send any.

    Attributes:
        target: path and query, as on the request line.
        headers: name and value, in their order; `Host` is one of them, `Cookie` may stand more than once.
        address: the client's, as nginx writes it; `unix:` on a unix socket.
        port: of the server.
        variables: what other modules define, such as `geoip2_data_country_code`.
        nginx: the version that shall answer.
    """

    target: bytes = b"/"
    method: bytes = b"GET"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    address: str = "127.0.0.1"
    port: int = 80
    variables: dict[str, bytes] = field(default_factory=dict)
    nginx: tuple[int, ...] = (1, 22, 1)

    def variable(self, name: str) -> bytes:
        """What nginx's variable holds; empty where nobody defines it.

        Raises:
            ValueError: the path leaves the root; nginx answers 400.
        """
        plain = {
            "uri": self._uri,
            "args": self._args,
            "host": self._host,
            "server_port": self._port,
            "request_method": self._method,
            "remote_addr": self._address,
        }
        kind, _, rest = name.partition("_")
        if name in self.variables:
            value = self.variables[name]
        elif name in plain:
            value = plain[name]()
        elif kind == "http":
            value = self._header(rest)
        elif kind == "cookie":
            value = self._cookie(rest.encode())
        elif kind == "arg":
            value = self._arg(rest.encode())
        else:
            value = b""
        return value

    def _address(self) -> bytes:
        return self.address.encode()

    def _port(self) -> bytes:
        return str(self.port).encode()

    def _method(self) -> bytes:
        return self.method

    def _header(self, name: str) -> bytes:
        found = [
            value.strip(b" ")
            for header, value in self.headers
            if _HEADER_NAME.match(header) and header.decode().lower().replace("-", "_") == name
        ]
        if name in _JOINED_EVER:
            return _JOINED_EVER[name].encode().join(found)
        if self.nginx < JOINS_REPEATED_HEADERS or name in _FIRST_EVER:
            return found[0] if found else b""
        return b", ".join(found)

    def _cookie(self, name: bytes) -> bytes:
        separators = b"[;,]" if self.nginx < JOINS_REPEATED_HEADERS else b";"
        pattern = re.compile(rb"(?:^|%b) *%b *= *([^;]*)" % (separators, re.escape(name)), re.IGNORECASE)
        for header, value in self.headers:
            found = pattern.search(value.strip(b" ")) if header.lower() == b"cookie" else None
            if found:
                return found[1]
        return b""

    def _arg(self, name: bytes) -> bytes:
        found = re.search(rb"(?:^|&)%b=([^&]*)" % re.escape(name), self._args(), re.IGNORECASE)
        return found[1] if found else b""

    def _args(self) -> bytes:
        return self.target.partition(b"#")[0].partition(b"?")[2]

    def _host(self) -> bytes:
        host = self._header("host").lower()
        host = re.sub(rb":\d*\Z", b"", host)
        return host.removesuffix(b".")

    def _uri(self) -> bytes:
        raw = self.target.partition(b"#")[0].partition(b"?")[0]
        decoded = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), raw)
        segments: list[bytes] = []
        parts = re.sub(rb"/+", b"/", decoded).split(b"/")
        for part in parts[1:]:
            if part == b"..":
                if not segments:
                    raise ValueError(f"{self.target!r} leaves the root: nginx answers 400")
                segments.pop()
            elif part != b".":
                segments.append(part)
        folder = parts[-1] in {b".", b".."} and bool(segments)
        return b"/" + b"/".join(segments) + (b"/" if folder else b"")
