"""What a policy looks like as it is written: the shapes that `shape.read` fills and the JSON Schema is made from.

A scalar is taken as the text that stands there, whatever YAML would make of it; an editor may see a number or a truth
value in its place. So `Scalar` and `Key` are marked texts for whoever reads a shape, and plain types for the schema.
"""

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from grayctl.marked import Place, Text
from grayctl.model.release import Device, Protocol, Unknown

if TYPE_CHECKING:
    Scalar = Text
    Key = Text
    Version = Text
    Percent = Text
    Expression = Text
else:
    Scalar = str | int | float | bool
    Key = str
    Version = Annotated[Scalar, Meta(description="A version, as its instances register it.", examples=["v2"])]
    Percent = Annotated[
        Scalar,
        Meta(description="A percentage with at most two decimals: 5, 0.5 or 5%.", examples=[5, "0.5%"]),
    ]
    Expression = Annotated[
        Scalar,
        Meta(
            description="An expression that must hold: == != < <= > >= in, not in, and or not, parentheses; "
            "header() cookie() query() path host port method client_ip region device identity; "
            "matches() has() in_list() present().",
            examples=['header("X-Age") > 18 and not cookie("opt_out") == "1"'],
        ),
    ]

_Some = Meta(min_length=1)
List = Annotated[list[Scalar], _Some]
Texts = Scalar | List


class Given:
    """Where a mapping stands, and which keys were written in it, and where; it is in every shape and in no schema."""

    def __init__(self, place: Place, keys: dict[str, Place]) -> None:
        self.place = place
        self.keys = keys


class Shape(Struct, forbid_unknown_fields=True, kw_only=True):
    """A mapping of a policy."""

    given: Given


class Operators(Shape):
    """What a value must be; all that is written must hold."""

    exact: Annotated[Scalar | None, Meta(description="The value itself, case and all.")] = None
    prefix: Annotated[Scalar | None, Meta(description="What the value begins with; of a path, whole segments.")] = None
    suffix: Annotated[Scalar | None, Meta(description="What the value ends with.")] = None
    regex: Annotated[Scalar | None, Meta(description="A PCRE that is found in the value.")] = None
    has: Annotated[Scalar | None, Meta(description="One part of a value with commas.")] = None
    in_: Annotated[Texts | None, Meta(description="Any of these values.")] = field(name="in", default=None)
    in_list: Annotated[Scalar | None, Meta(description="The name of a list that holds the value.")] = None
    present: Annotated[bool | None, Meta(description="Whether there is a value that is not empty.")] = None


Value = Scalar | List | Operators
Values = Annotated[dict[Key, Value], _Some]
_DEVICES = {"if": {"type": "string"}, "then": {"enum": list(Device)}, "items": {"enum": list(Device)}}


class Match(Shape):
    """Conditions that must all hold."""

    header: Annotated[Values | None, Meta(description="Header name -> what its value must be.")] = None
    cookie: Annotated[Values | None, Meta(description="Cookie name -> what its value must be.")] = None
    query: Annotated[Values | None, Meta(description="Query parameter -> what its value must be.")] = None
    path: Annotated[Value | None, Meta(description="The decoded, normalised path, without the query.")] = None
    host: Annotated[Value | None, Meta(description="The host without port; *.example.com is every subdomain.")] = None
    port: Annotated[Value | None, Meta(description="The port that nginx was reached on.")] = None
    method: Annotated[Value | None, Meta(description="The method, in upper case.", examples=["GET"])] = None
    client_ip: Annotated[Value | None, Meta(description="Addresses and networks, or {in_list: NAME}.")] = None
    region: Annotated[Value | None, Meta(description="Any of these regions; `regions` defines them.")] = None
    device: Annotated[
        Value | None, Meta(description="Any of these devices, by User-Agent.", extra_json_schema=_DEVICES)
    ] = None
    identity: Annotated[Value | None, Meta(description="The user, by the policy's `identity`.")] = None


Matches = Match | Annotated[list[Match], _Some]


class NamedInput(Shape):
    """One of header, cookie and query, with its name."""

    header: Annotated[Scalar | None, Meta(description="A header's name.")] = None
    cookie: Annotated[Scalar | None, Meta(description="A cookie's name.")] = None
    query: Annotated[Scalar | None, Meta(description="A query parameter's name.")] = None


class RouteShape(Shape):
    """The first route that matches decides: exactly one of `to` and `traffic`."""

    name: Annotated[Scalar, Meta(description="What logs and `explain` call it; each name once.")]
    match: Annotated[Matches | None, Meta(description="A mapping: all of it. A list of mappings: any of them.")] = None
    when: Expression | None = None
    to: Version | None = None
    traffic: Annotated[
        Annotated[dict[Key, Percent], _Some] | None,
        Meta(description="Version -> share of those who match; the rest is stable's."),
    ] = None


class ExplicitShape(NamedInput):
    """A request may name its version in one header, cookie or query parameter."""

    versions: Annotated[Texts | None, Meta(description="Which; by default all that the policy names.")] = None
    from_: Annotated[Texts | None, Meta(description="The networks from which it may.")] = field(
        name="from", default=None
    )
    unknown: Annotated[Unknown | None, Meta(description="What a value that is not listed gets: stable, or a 400.")] = (
        None
    )


class RegionShape(Shape):
    """A region by a variable of nginx, such as one of its GeoIP module."""

    variable: Annotated[Scalar, Meta(description="The variable.", examples=["$geoip2_data_country_code"])]
    values: Annotated[Texts, Meta(description="The values that are this region.", examples=[["CN"]])]


class HashShape(Shape):
    """Balance by the hash of an expression."""

    hash: Annotated[Scalar, Meta(description="Variables and text.", examples=["$request_uri"])]


class UpstreamShape(Shape):
    """What the service's upstreams say."""

    keepalive: Annotated[int | None, Meta(description="Idle connections that a worker keeps; 0 for none.")] = None
    max_fails: Annotated[int | None, Meta(description="Failures after which a server rests; 0 for never.")] = None
    fail_timeout: Annotated[Scalar | None, Meta(description="How long it rests: 30s.", examples=["30s"])] = None
    zone: Annotated[Scalar | None, Meta(description="auto, or a size such as 64k.", examples=["auto"])] = None


class BlueGreenShape(Shape):
    """A preview beside `stable`, which is the active version; instead of `traffic`."""

    preview: Version
    match: Annotated[Matches | None, Meta(description="Who sees the preview.")] = None
    when: Expression | None = None
    port: Annotated[Texts | None, Meta(description="The port that shows the preview.")] = None


class PolicyShape(Shape):
    """The release policy of one service."""

    stable: Annotated[Version, Meta(description="What every request gets that nothing else claims.")]
    service: Annotated[Scalar | None, Meta(description="The service's name in Consul.")] = None
    protocol: Annotated[Protocol | None, Meta(description="What the service speaks; http by default.")] = None
    identity: Annotated[
        Scalar | NamedInput | Annotated[list[Scalar | NamedInput], _Some] | None,
        Meta(description="Who a user is: the first that is not empty; `none` decides each request on its own."),
    ] = None
    traffic: Annotated[
        Literal["weights"] | dict[Key, Percent] | None,
        Meta(description="Version -> share of the users; the rest is stable's. Or weights: by instance weights alone."),
    ] = None
    routes: Annotated[list[RouteShape] | None, Meta(description="In order; the first that matches decides.")] = None
    explicit: ExplicitShape | None = None
    regions: Annotated[
        dict[Key, Scalar | List | RegionShape] | None,
        Meta(description="Name -> addresses and networks, or a variable and its values."),
    ] = None
    balance: Annotated[
        Literal["round_robin", "least_conn", "ip_hash", "random"] | HashShape | None,
        Meta(description="How an upstream chooses a server; round_robin by default."),
    ] = None
    upstream: UpstreamShape | None = None
    when_empty: Annotated[
        Literal["keep_last", "reject"] | None,
        Meta(description="When no instance is healthy: keep the last known ones (the default), or answer 503."),
    ] = None
    blue_green: BlueGreenShape | None = None
    rollout: Annotated[
        dict[Key, Any] | None, Meta(description="Steps and checks; this version of grayctl does not run them.")
    ] = None


def schema() -> dict[str, Any]:
    """The JSON Schema of a policy, for editors."""
    made = msgspec.json.schema(PolicyShape, schema_hook=lambda _type: {"type": "object"})
    shapes = {name: _published(one) for name, one in made["$defs"].items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "grayctl release",
        "$ref": made["$ref"],
        "$defs": shapes,
    }


@cache
def known_keys() -> frozenset[str]:
    """Every key that a policy may have, wherever: what a node tells the fleet that it understands."""
    return frozenset(key for shape in schema()["$defs"].values() for key in shape.get("properties", ()))


def _published(part: Any) -> Any:
    """A part of the schema without what no policy has: the place of a shape, and null for a key that is left out."""
    if isinstance(part, list):
        return [_published(one) for one in part if one not in ({"type": "null"}, "given")]
    if not isinstance(part, dict):
        return part
    kept = {key: _published(one) for key, one in part.items() if key not in {"given", "default"}}
    if "anyOf" in kept:
        scalars = [one["type"] for one in kept["anyOf"] if one.keys() == {"type"} and one["type"] in _SCALARS]
        others = [one for one in kept.pop("anyOf") if one.get("type") not in scalars]
        ways = (
            [{"type": [one for one in scalars if one != "integer" or "number" not in scalars]}, *others]
            if scalars
            else others
        )
        kept |= ways[0] if len(ways) == 1 else {"anyOf": ways}
    return kept


_SCALARS = ("string", "integer", "number", "boolean")
