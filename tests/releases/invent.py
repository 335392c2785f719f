"""Invents policies and requests, of which many hit: from a seed, so that a mismatch can be played again.

Bytes that are no UTF-8 stand in texts as Python's lone surrogates; `_settled` makes a text what its bytes decode to.
"""

import json
import re
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import quote

from tests.releases.oracle import AGENTS, Sent
from tests.support.nginx import VERSION

HEADERS = ["X-User-ID", "X-Age", "X-Tags", "X-Release-Version", "x-city"]
COOKIES = ["uid", "my-uid", "C_1", "a.b"]
QUERIES = ["q", "my-arg", "a[b]", "Ab_1"]
VERSIONS = ["v1", "v2", "1.10", "V3", "b+1"]
TEXTS = [
    "v1", "v2", "V2", "beijing", "Beijing", "shanghai", "北京", "a b", "vip", "gold", "$host", "${host}", "~.", "~*x",
    "default", "hostnames", "include", "volatile", 'quo"te', "back\\slash", "semi;colon", "br{ace}", "#hash", "1", "0",
    "a+b", "50%", "x" * 60, "é", "*", "on", "u1", "u2", "U1", "\\n", "'", "a|b", "^a", "a,b",
]  # fmt: skip
NUMBERS = [
    "0",
    "00",
    "+0",
    "+",
    "-0",
    "5",
    "05",
    "+5",
    "-5",
    "\u0665",
    "17",
    "18",
    "019",
    "19",
    "99",
    "100",
    "18.5",
    "2e1",
    "0x20",
    "9" * 40,
    "-" + "9" * 40,
]
ODD = [  # bytes that clients may send: no UTF-8, pieces of it, control characters
    "\udcff", "\udcfe\udcff", "v2\udc80", "\udcffv2", "\udce5\udc8c", "\udce5北", "北\udc97", "u1\udcc3",
    "\udcc0\udc80", "vip,\udcff", "5\udcff", "\udca0", "\x01", "v2\x01", "a\tb", "\x7f", "\x85v2", "é\x1f", "\u212a",
    "\tv2", "v2\t",
]  # fmt: skip
PATHS = [
    "/", "/static", "/static/x", "/staticx", "/a/", "/a", "/a/b", "/ä/b", "/x y", "/V1", "/\udcff", "/static/\udcff",
    "/static\udce4", "/\udcc3/b", "/a\n", "/a\nb", "/\n/static", "/\x01/x", "/a?b#c", "/a%2Fb", "/a+b",
]  # fmt: skip
HOSTS = ["example.com", "a.example.com", "b.a.example.com", "other.org", "EXAMPLE.com", ".example.com"]
if VERSION < (1, 29, 4):  # from then on nginx answers 400 to bytes that no host name has
    HOSTS += ["É.example.com", "\udcff.org"]
METHODS = ["GET", "POST", "PUT"]
ADDRESSES = [
    "10.1.2.3",
    "10.1.9.9",
    "10.9.0.1",
    "192.168.1.1",
    "2001:db8::1",
    "2001:db8:1::1",
    "127.0.0.1",
    "10.1.2.6",
    "::ffff:10.1.2.3",
    "2001:db8:c34f::1",
]
NETWORKS = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3",
    "10.9.0.0/16",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "0.0.0.0/0",
    "192.168.1.1/32",
]
DEVICES = ["ios", "android", "mobile", "tablet", "wechat", "desktop", "bot"]
REGEXES = [
    "[^\\x00-\\x7f]",
    r"\xff",
    r"^\xe5\x8c",
    "^.$",
    r"^..\z",
    "v2$",
    "^v[0-9]+$",
    "(?i)beijing",
    "a.b",
    "x{3,}",
    "^$",
    "[^a-z]",
    "vip|gold",
    r"\d+",
    "北",
    r"\\",
    '"',
]
LISTS = {
    "beta": ["u1", "U2", "北京", "vip", "$host", "x" * 60, "V2", "v2", "10.1.2.3"],
    "odd": ["\udcff", "u1\udcc3", "U1\udcc3", "\udce5\udc8c", "北\udc97", "a\tb", "é", "\udcff" * 60, "É"],
    "nets": ["10.0.0.0/9", "2001:db8::/32", "broken", "u1"],
    "empty": [],
    "paths": ["/a", "/static/\udcff", "/ä/b", "/V1", "/a%2Fb", "/\x01/x"],
    "huge": [f"{'User' if number % 7 else 'user'}-{number}" for number in range(100_000)],
    "huge-nets": [f"10.{number >> 8 & 255}.{number & 255}.{number % 7}" for number in range(65_536)]
    + [f"2001:db8:{number:x}::/48" for number in range(50_000)],
}
REGIONS = {
    "north": ["10.1.0.0/16", "2001:db8::/32"],
    "south": ["10.0.0.0/8"],
    "nowhere": ["203.0.113.0/24"],
    "china": {"variable": "$geoip2_data_country_code", "values": ["CN", "cn-sh", "北", "A1"]},
    "no-answer": {"variable": "$geoip2_data_country_code", "values": ["--", "O1"]},
}
COUNTRIES = ["CN", "cn", "CN-SH", "cn-sh", "北", "A1", "US", "", "--", "\udcff"]
"""What a user's own `map` says for `$geoip2_data_country_code`, from a header of the test."""
TEXTUAL = ["header", "cookie", "query"]


@dataclass
class Invented:
    """A policy as a plain document, and the trees from which its `when` expressions were written, by route."""

    policy: dict[str, Any]
    trees: dict[str, Any] = field(default_factory=dict)


def policy(random: Random, service: str) -> Invented:
    """Any policy that grayctl takes."""
    stable, *others = random.sample(VERSIONS, 4)
    made = Invented({"service": service, "stable": stable})
    document = made.policy
    if random.random() < 0.9:
        document["identity"] = _identity(random)
    if random.random() < 0.25:
        document["blue_green"] = _blue_green(random, made, others[0])
    elif random.random() < 0.8:
        document["traffic"] = _traffic(random, others)
    document["routes"] = [
        _route(random, made, f"{random.choice(['r', 'R', 'route'])}{n}", others)
        for n in range(random.choice([0, 1, 3, 6]))
    ]
    if random.random() < 0.05:
        document["routes"] += [
            {"name": f"many-{n}", "match": {"header": {"X-Age": str(n)}}, "to": others[0]} for n in range(120)
        ]
    if random.random() < 0.5:
        document["explicit"] = _explicit(random, stable, others)
    document["regions"] = REGIONS
    if not document["routes"]:
        del document["routes"]
    asked = json.dumps([document.get("blue_green"), document.get("routes"), made.trees])
    if '"identity"' not in asked and random.random() < 0.3:
        document["identity"] = "none"
    return made


def _blue_green(random: Random, made: Invented, preview: str) -> dict[str, Any]:
    seen: dict[str, Any] = {"preview": preview}
    asked = random.sample(["match", "when", "port"], random.choice([1, 1, 2]))
    if "match" in asked:
        seen["match"] = _match(random)
    if "when" in asked:
        made.trees["preview"] = tree = _tree(random, 2)
        seen["when"] = _written(tree, random)
    if "port" in asked:
        seen["port"] = random.choice(["{port}", ["1", "{port}"], "1"])
    return seen


def _identity(random: Random) -> Any:
    chain: list[Any] = [
        {"header": "X-User-ID"},
        {"cookie": random.choice(COOKIES)},
        {"query": random.choice(QUERIES)},
        "client_ip",
    ]
    return random.sample(chain, random.choice([1, 2, 3]))


def _traffic(random: Random, versions: list[str]) -> dict[str, str]:
    chosen = random.sample(versions, random.choice([1, 1, 2]))
    if random.random() < 0.1:
        return {chosen[0]: random.choice(["100", "100%"])}
    return {version: random.choice(["0", "5", "0.5", "12.34", "30%", "49.99"]) for version in chosen}


def _route(random: Random, made: Invented, name: str, versions: list[str]) -> dict[str, Any]:
    route: dict[str, Any] = {"name": name}
    if random.random() < 0.7:
        route["match"] = _match(random)
    if random.random() < 0.4 or "match" not in route:
        made.trees[name] = tree = _tree(random, 3)
        route["when"] = _written(tree, random)
    if random.random() < 0.3:
        route["traffic"] = _traffic(random, versions)
    else:
        route["to"] = random.choice([made.policy["stable"], *versions])
    return route


def _explicit(random: Random, stable: str, others: list[str]) -> dict[str, Any]:
    source = random.choice(TEXTUAL)
    rule: dict[str, Any] = {source: _name(random, source)}
    if random.random() < 0.6:
        rule["versions"] = [stable, *others[: random.choice([1, 2])]]
    if random.random() < 0.4:
        rule["from"] = random.sample(NETWORKS, 2)
    if random.random() < 0.6:
        rule["unknown"] = random.choice(["stable", "reject"])
    return rule


def _name(random: Random, source: str) -> str:
    return random.choice({"header": HEADERS, "cookie": COOKIES, "query": QUERIES}[source])


def _match(random: Random) -> Any:
    one = [_mapping(random) for _ in range(random.choice([1, 1, 2]))]
    return one if len(one) > 1 else one[0]


def _mapping(random: Random) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for source in random.sample(
        [*TEXTUAL, "path", "host", "port", "method", "client_ip", "region", "device", "identity"],
        random.choice([1, 1, 2]),
    ):
        found[source] = (
            {_name(random, source): _condition(random, source)} if source in TEXTUAL else _condition(random, source)
        )
    return found


def _list(random: Random) -> str:
    return random.choices(["beta", "odd", "nets", "empty", "huge"], [9, 9, 4, 4, 1])[0]


def _values(source: str) -> list[str]:
    return {
        "path": ["/", "/static", "/a/", "/a", "/ä/b", "/x y", "/V1", "/a?b#c", "/a%2Fb", "/a+b"],
        "host": ["example.com", "*.example.com", "a.example.com"],
        "port": ["{port}", "1"], "method": METHODS, "client_ip": NETWORKS, "region": list(REGIONS), "device": DEVICES,
    }.get(source, TEXTS)  # fmt: skip


def _condition(random: Random, source: str) -> Any:
    values = _values(source)
    if source == "client_ip" and random.random() < 0.3:
        return {"in_list": random.choices(["nets", "beta", "huge-nets"], [9, 9, 1])[0]}
    if source in {"port", "method", "client_ip", "region", "device", "host"} or random.random() < 0.5:
        return random.sample(values, 2) if random.random() < 0.4 else random.choice(values)
    if random.random() < 0.05 and source in {"header", "identity"}:
        return [*values, *(f"filler-{n}" for n in range(40))]
    return dict(_operator(random, source) for _ in range(random.choice([1, 1, 2])))


def _operator(random: Random, source: str) -> tuple[str, Any]:
    values = _values(source)
    if source == "path":
        return random.choice(
            [
                ("prefix", random.choice(values)),
                ("suffix", "/x"),
                ("regex", random.choice(REGEXES)),
                ("exact", "/a"),
                ("in_list", "paths"),
            ]
        )
    plain = [text for text in values if text.isascii() and text.isalnum()]
    kinds: list[tuple[str, Any]] = [
        ("prefix", random.choice(plain)), ("suffix", random.choice(plain)), ("regex", random.choice(REGEXES)),
        ("in_list", _list(random)), ("present", random.choice(["true", "false"])),
        ("in", random.sample(values, 3)),
    ]  # fmt: skip
    return random.choice([*kinds, ("has", random.choice(["vip", "gold", "v2"]))])


# ---------------------------------------------------------------- `when`


def _tree(random: Random, depth: int) -> Any:
    if depth and random.random() < 0.6:
        kind = random.choice(["and", "or", "not"])
        return (kind, *(_tree(random, depth - 1) for _ in range(1 if kind == "not" else random.choice([2, 2, 3]))))
    source = random.choice([*TEXTUAL, "path", "host", "port", "method", "client_ip", "region", "device", "identity"])
    given = (source, _name(random, source) if source in TEXTUAL else "")
    if source == "port":
        return ("number", given, random.choice(["<", "<=", ">", ">="]), random.choice([1024, 33_000, 45_000]))
    if source in {"client_ip", "region", "device", "path", "host", "method"}:
        return ("test", given, "in", random.sample(_values(source), 2))
    if random.random() < 0.5:
        return (
            "number",
            given,
            random.choice(["<", "<=", ">", ">=", "==", "!="]),
            random.choice([0, 5, -5, 18, 19, 99, 10**40 - 1]),
        )
    operator, operand = random.choice(
        [
            ("exact", random.choice(TEXTS)),
            ("regex", random.choice(REGEXES)),
            ("has", "vip"),
            ("in_list", random.choice(["beta", "odd"])),
            ("present", "true"),
            ("in", random.sample(TEXTS, 2)),
        ]
    )
    return ("test", given, operator, operand)


def _written(tree: Any, random: Random) -> str:
    kind, *rest = tree
    if kind in {"and", "or"}:
        word = random.choice({"and": [" and ", " && "], "or": [" or ", " || "]}[kind])
        return f"({word.join(_written(one, random) for one in rest)})"
    if kind == "not":
        return f"{random.choice(['not ', '!'])}({_written(rest[0], random)})"
    (source, name), operator, operand = rest
    given = f"{source}({_quoted(name)})" if name else source
    if kind == "number":
        return f"{given} {operator} {operand}"
    texts = ", ".join(map(_quoted, operand if isinstance(operand, list) else [operand]))
    forms = {
        "exact": f"{given} == {texts}",
        "in": f"{given} in [{texts}]",
        "present": f"present({given})",
        "regex": f"matches({given}, {texts})",
    }
    return forms.get(operator, f"{operator}({given}, {texts})")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# ---------------------------------------------------------------- requests


def request(random: Random, port: int) -> Sent:
    """Any request whose parts the policies look at."""

    def text() -> str:
        return random.choice(
            [
                random.choice(TEXTS),
                random.choice(NUMBERS),
                random.choice(VERSIONS),
                _settled(random.choice(ODD)),
                "",
                f"user-{random.randrange(5000)}",
                f"User-{random.randrange(100_100)}",
                "vip, gold",
                "v2" * 1000,
                "a,vip ,b",
                "always",
                "NEVER",
            ]
        )

    headers = [
        (random.choice([name, name.upper(), name.lower()]), text())
        for name in random.sample(HEADERS, random.choice([0, 1, 2, 4]))
    ]
    if headers and random.random() < 0.1:
        headers.append((headers[0][0], text()))
    cookies = [(name, _cookie(text())) for name in random.choices(COOKIES, k=random.choice([0, 0, 1, 3]))]
    query = [(name, _encoded(random, text())) for name in random.choices(QUERIES, k=random.choice([0, 0, 1, 3]))]
    return Sent(
        method=random.choice(METHODS),
        path=random.choice(PATHS),
        second_cookie_line=random.choice([0, 0, 1, 2]),
        as_it_is=random.random() < 0.5,
        query=tuple(query),
        headers=tuple(headers),
        cookies=tuple(cookies),
        host=random.choice(HOSTS),
        address=random.choice(ADDRESSES),
        port=port,
        agent=random.choice(list(AGENTS)),
        country=random.choice(COUNTRIES),
    )


def _settled(text: str) -> str:
    """The text that its bytes decode to: pieces that come together are a character."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _cookie(text: str) -> str:
    return text.replace(";", "").replace(",", "").strip(" ")


def _encoded(random: Random, text: str) -> str:
    if random.random() < 0.5 and all(letter.isalnum() and letter.isascii() for letter in text):
        return text
    if random.random() < 0.3:
        return _quoted_bytes(text, kept="+,$*|^'\"{}[]\\")
    found = quote(text, safe="" if random.random() < 0.7 else "+,$*|^'", errors="surrogateescape")
    if random.random() < 0.2:
        found = re.sub("%[0-9A-F]{2}", lambda one: one[0].lower(), found)
    return found.replace("%20", "+") if random.random() < 0.3 else found


def _quoted_bytes(text: str, kept: str) -> str:
    """Percent-encoded where nginx wants it; what is beyond ASCII stands as it is."""
    return "".join(quote(one, safe=kept) if one.isascii() else one for one in text)


def written(sent: Sent) -> bytes:
    """The request as bytes, for a connection that stays open; the address goes to the realip module."""
    path = _quoted_bytes(sent.path, "/") if sent.as_it_is else quote(sent.path, safe="/", errors="surrogateescape")
    target = path + (
        "?" + "&".join(f"{quote(name, safe='[]')}={value}" for name, value in sent.query) if sent.query else ""
    )
    lines = [
        f"{sent.method} {target} HTTP/1.1",
        f"Host: {sent.host}",
        f"X-Test-Address: {sent.address}",
        f"X-Test-Country: {sent.country}",
        "Content-Length: 0",
    ]
    lines += [f"{name}: {value}" for name, value in sent.headers]
    cookies = [f"{name}={value}" for name, value in sent.cookies]
    parts = (cookies[: sent.second_cookie_line], cookies[sent.second_cookie_line :])
    lines += ["Cookie: " + "; ".join(part) for part in parts if part]
    if sent.agent:
        lines.append(f"User-Agent: {sent.agent}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
