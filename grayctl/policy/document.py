"""The one validator: the text of a policy becomes a Release, or an error that names all that is wrong with it."""

import re
from collections.abc import Mapping as Table
from dataclasses import dataclass

import msgspec

from grayctl import marked
from grayctl.marked import Mapping, Node, Place, Sequence, Text
from grayctl.model.balance import Balance, Method
from grayctl.model.naming import VERSION_RULE, is_version
from grayctl.model.release import (
    BlueGreen,
    Explicit,
    Input,
    Protocol,
    Region,
    Release,
    Route,
    Source,
    Unknown,
    UpstreamOptions,
)
from grayctl.model.tokens import Expression
from grayctl.policy.conditions import Scope, name, network, sound
from grayctl.policy.matching import Matching, texts
from grayctl.policy.shape import Problems, read
from grayctl.policy.shares import read_shares
from grayctl.policy.wire import (
    BlueGreenShape,
    ExplicitShape,
    HashShape,
    NamedInput,
    PolicyShape,
    RegionShape,
    RouteShape,
    UpstreamShape,
)
from grayctl.settings import Duration
from grayctl.wording import did_you_mean

LARGEST = 128 * 1024  # bytes
MOST_ROUTES = 200
RESERVED = ("explicit", "preview", "traffic", "stable", "unknown", "empty")  # what $grayroute_<id> says otherwise
EXPLICIT_WORDS = ("always", "never")

_SERVICE = re.compile(r"[^\x00-\x20\x7f/]([^\x00-\x1f\x7f/]{0,126}[^\x00-\x20\x7f/])?\Z")
_VARIABLE = re.compile(r"\$[A-Za-z0-9_]{1,64}\Z")
_ZONE = re.compile(r"(auto|[0-9]{1,6}[km])\Z")
_HTTP_ONLY = re.compile(r"\$\{?(request_uri|uri|args|arg_|http_|cookie_|host|query_string|is_args|scheme|request_)")


@dataclass(frozen=True, slots=True)
class Document:
    """A policy that may be followed, and where it says what.

    Attributes:
        file: its name, as in messages.
        places: path, such as `routes[0].match`, to its place; only of what was written.
        lists: each list that a condition asks, with the place of the condition.
    """

    release: Release
    file: str
    places: Table[str, Place]
    lists: tuple[tuple[str, Place], ...]


def read_release(text: str | bytes, file: str, *, service: str | None = None) -> Release:
    """What a policy says.

    Args:
        text: YAML or JSON.
        file: stands in messages: a file's name, or a key's.
        service: whose policy it must be: the last part of its key. None: the policy itself says it.

    Raises:
        ReleaseError: with every problem: line, path, value, what is wrong, what is allowed. No other exception.
    """
    return read_document(text, file, service=service).release


def read_document(text: str | bytes, file: str, *, service: str | None = None) -> Document:
    """As `read_release`, with the places that a lint speaks of.

    Raises:
        ReleaseError: as there.
    """
    problems = Problems(file)
    size = len(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    if size > LARGEST:
        problems.add(Place(1, ""), "", f"has more than {LARGEST} bytes (128 KiB)", "Use in_list")
        raise problems.error()
    node = marked.read(text, problems.add)
    shape = None if node is None else read(node, PolicyShape, problems)
    if node is None or shape is None:
        raise problems.error()
    reader = _Reader(shape, problems)
    release = reader.release(service)
    if problems:
        raise problems.error()
    places: dict[str, Place] = {}
    _collect(node, places)
    return Document(release, file, places, tuple(reader.matching.lists))


def _collect(node: Node, places: dict[str, Place]) -> None:
    places[node.place.path] = node.place
    if isinstance(node, Sequence):
        for one in node.items:
            _collect(one, places)
    elif isinstance(node, Mapping):
        for key, one in node.entries.items():
            _collect(one, places)
            places[key.place.path] = key.place


class _Reader:
    """One policy, field by field. All that is wrong goes to the problems; then what is returned is no Release."""

    def __init__(self, shape: PolicyShape, problems: Problems) -> None:
        self._shape = shape
        self._problems = problems
        self._versions: dict[str, str] = {}
        self._protocol = shape.protocol or Protocol.HTTP
        names = Matching(Scope(), problems, [])  # reads names alone, which need no scope
        self._attempt, self._one_named = names.attempt, names.one_named
        self._identity = self._read_identity()
        self._regions = tuple(self._region(key, one) for key, one in sorted((shape.regions or {}).items()))
        scope = Scope(self._protocol, frozenset(one.name for one in self._regions), self._identity is not None)
        self.matching = Matching(scope, problems, [])

    def release(self, service: str | None) -> Release:
        shape = self._shape
        stable = self._version(shape.stable)
        release = Release(
            service=self._service(service),
            stable=stable,
            protocol=self._protocol,
            identity=self._identity,
            shares=self._shares(shape.traffic, shape.given.keys["traffic"], stable)
            if isinstance(shape.traffic, dict)
            else (),
            by_weights=shape.traffic == "weights",
            routes=self._routes(stable),
            regions=self._regions,
            blue_green=self._blue_green(shape.blue_green, stable) if shape.blue_green is not None else None,
            balance=self._balance(),
            upstream=self._upstream(shape.upstream) if shape.upstream is not None else UpstreamOptions(),
            when_empty=shape.when_empty or "keep_last",
        )
        if shape.explicit is None:
            return release
        return msgspec.structs.replace(release, explicit=self._explicit(shape.explicit, release.versions))

    def _service(self, service: str | None) -> str:
        text = self._shape.service
        if text is None:
            if service is None and "service" not in self._shape.given.keys:
                self._problems.add(Place(1, "service"), "", "is missing", "Write `service:` and its name in Consul")
            return service or ""
        if not _SERVICE.match(text):
            self._problems.add(text.place, text, "is no name of a service", "It has up to 128 characters and no /")
        elif service is not None and text != service:
            self._problems.add(text.place, text, f"is not {service}, whose policy this is", "Write that, or move it")
        return str(text)

    def _version(self, text: Text) -> str:
        version = str(text)
        if not is_version(version):
            self._problems.add(text.place, version, "is no version", f"A version is {VERSION_RULE}")
        elif version.lower() in EXPLICIT_WORDS:
            self._problems.add(text.place, version, "is a word that a request may say", "Call the version otherwise")
        elif (other := self._versions.setdefault(version.lower(), version)) != version:
            wrong = f"differs from {other} in case only, and nginx knows upstreams without case"
            self._problems.add(text.place, version, wrong, "Write it the same way, or call one version otherwise")
        return version

    def _shares(self, traffic: dict[Text, Text], place: Place, stable: str) -> tuple[tuple[str, int], ...]:
        for version in traffic:
            self._version(version)
        return read_shares(traffic, place, stable, self._problems)

    def _routes(self, stable: str) -> tuple[Route, ...]:
        shapes = self._shape.routes or []
        if len(shapes) > MOST_ROUTES:
            place = Place(shapes[MOST_ROUTES].given.place.line, "routes")
            self._problems.add(place, "", f"has {len(shapes)} routes", f"{MOST_ROUTES} are the most")
            return ()
        names: dict[str, str] = {}
        return tuple(self._route(one, stable, names) for one in shapes)

    def _route(self, shape: RouteShape, stable: str, names: dict[str, str]) -> Route:
        given, called = shape.given, str(shape.name)
        written = set(given.keys)
        self._attempt(shape.name.place, name, called, "route")
        if called.lower() in RESERVED:
            allowed = f"It must not be one of {', '.join(RESERVED)}"
            self._problems.add(shape.name.place, called, "has a meaning of its own as a route", allowed)
        elif called.lower() in names:
            wrong = f"is the name of another route ({names[called.lower()]}); case does not count"
            self._problems.add(shape.name.place, called, wrong, "Give each route a name of its own")
        names.setdefault(called.lower(), called)
        if len(written & {"to", "traffic"}) != 1:
            wrong = "has both `to` and `traffic`" if written >= {"to", "traffic"} else "leads nowhere"
            self._problems.add(given.place, "", wrong, "Write either `to: VERSION` or `traffic: {VERSION: SHARE}`")
        if not written & {"match", "when"}:
            self._problems.add(given.place, "", "has no condition", "Write `match` or `when`, or both")
        return Route(
            name=called,
            predicate=self.matching.predicate(shape.match, shape.when),
            to=self._version(shape.to) if shape.to is not None else "",
            shares=self._shares(shape.traffic, given.keys["traffic"], stable) if shape.traffic else (),
        )

    def _blue_green(self, shape: BlueGreenShape, stable: str) -> BlueGreen:
        given, preview = shape.given, self._version(shape.preview)
        if "traffic" in self._shape.given.keys:
            self._problems.add(given.place, "", "stands beside `traffic`", "Write one of the two")
        if not {"match", "when", "port"} & set(given.keys):
            self._problems.add(given.place, "", "says nobody who sees the preview", "Write `match`, `when` or `port`")
        if preview == stable:
            self._problems.add(shape.preview.place, preview, "is stable already", "Name the version to preview")
        return BlueGreen(preview, self.matching.predicate(shape.match, shape.when, shape.port))

    def _explicit(self, shape: ExplicitShape, named: tuple[str, ...]) -> Explicit:
        if self._protocol is Protocol.TCP:
            self._problems.add(shape.given.place, "", "cannot be in a tcp service", "It needs headers or cookies")
        versions = [self._version(one) for one in texts(shape.versions or [])]
        return Explicit(
            input=self._one_named(shape) or Input(Source.HEADER),
            versions=tuple(sorted(set(versions or named))),
            networks=self._networks(shape.from_) if shape.from_ is not None else (),
            unknown=shape.unknown or Unknown.STABLE,
        )

    def _networks(self, written: Text | list[Text]) -> tuple[str, ...]:
        found = (self._attempt(one.place, network, str(one)) for one in texts(written))
        return tuple(sorted({one for one in found if one is not None}))

    def _region(self, key: Text, shape: Text | list[Text] | RegionShape) -> Region:
        self._attempt(key.place, name, str(key), "region")
        if not isinstance(shape, RegionShape):
            return Region(str(key), networks=self._networks(shape))
        variable = shape.variable
        if not _VARIABLE.match(variable):
            self._problems.add(
                variable.place, variable, "is no variable of nginx", "Write such as $geoip2_data_country_code"
            )
        elif variable[1:].lower().startswith("gray"):
            self._problems.add(variable.place, variable, "is grayctl's own", "Name another variable")
        values = {str(one) for one in texts(shape.values)}
        for one in texts(shape.values):
            self._attempt(one.place, sound, str(one))
        return Region(str(key), variable=variable[1:].lower(), values=tuple(sorted(values)))

    def _read_identity(self) -> tuple[Input, ...] | None:
        written = self._shape.identity
        if written is None:
            return (Input(Source.CLIENT_IP),)
        found = self._chain(written if isinstance(written, list) else [written])
        if self._protocol is Protocol.TCP and found != (Input(Source.CLIENT_IP),):
            place = self._shape.given.keys["identity"]
            self._problems.add(place, "", "can only be client_ip in a tcp service", "Leave it out")
        return found

    def _chain(self, written: list[Text | NamedInput]) -> tuple[Input, ...] | None:
        if len(written) == 1 and written[0] == "none":
            return None
        found: list[Input] = []
        for one in written:
            if isinstance(one, NamedInput):
                item = self._one_named(one)
                place = one.given.place
            else:
                item = Input(Source.CLIENT_IP) if str(one) == str(Source.CLIENT_IP) else None
                place = one.place
                if item is None:
                    words = (*(str(source) for source in Source if source.named), "client_ip")
                    allowed = (
                        f"{did_you_mean(one, words)}Write `header: NAME`, `cookie: NAME`, `query: NAME` or client_ip"
                    )
                    self._problems.add(place, one, "is no identity", f"{allowed}; or `none` alone")
            if item is not None and item in found:
                self._problems.add(place, item.text, "stands here twice", "Keep one")
            found += [] if item is None else [item]
        return tuple(found)

    def _balance(self) -> Balance:
        written = self._shape.balance
        if written is None or isinstance(written, str):
            method = Method(written or "round_robin")
            if method is Method.IP_HASH and self._protocol is Protocol.TCP:
                place = self._shape.given.keys["balance"]
                self._problems.add(place, str(method), "is unknown to nginx's stream", "Write {hash: $remote_addr}")
            return Balance(method)
        return self._hash(written)

    def _hash(self, shape: HashShape) -> Balance:
        text = shape.hash
        if self._protocol is Protocol.TCP and _HTTP_ONLY.search(text):
            self._problems.add(text.place, text, "is of HTTP, which a tcp service is not", "Write $remote_addr")
        try:
            return Balance(Method.HASH, Expression(str(text)))
        except ValueError:
            allowed = "Write variables, letters, digits and any of : / . _ = & ? -"
            self._problems.add(text.place, text, "is no expression of nginx", allowed)
            return Balance()

    def _upstream(self, shape: UpstreamShape) -> UpstreamOptions:
        options = UpstreamOptions()
        if shape.keepalive is not None and self._protocol is Protocol.TCP:
            place = shape.given.keys["keepalive"]
            self._problems.add(place, "", "is not for a tcp service: a connection there is the client's own")
        zone = options.zone if shape.zone is None else str(shape.zone)
        if shape.zone is not None and not _ZONE.match(zone):
            self._problems.add(shape.zone.place, zone, "is no size", "Write auto, or a size such as 64k or 1m")
        timeout = options.fail_timeout
        if shape.fail_timeout is not None:
            try:
                timeout = float(Duration.parse(str(shape.fail_timeout)))
            except ValueError:
                place = shape.fail_timeout.place
                self._problems.add(place, shape.fail_timeout, "is no duration", "Write such as 10s, 250ms or 1m")
        keepalive = options.keepalive if shape.keepalive is None else shape.keepalive
        max_fails = options.max_fails if shape.max_fails is None else shape.max_fails
        return UpstreamOptions(keepalive, max_fails, timeout, zone)
