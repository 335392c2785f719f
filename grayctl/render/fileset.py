"""Plan + templates -> FileSet: one object a service, and the entry files that include them."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from operator import attrgetter

import msgspec
from markupsafe import Markup

from grayctl.errors import TemplateError
from grayctl.model.generation import GENERATION, STREAM_MARK, FileSet, Object
from grayctl.model.identity import Derived, Renewed, differing, kept, renewed
from grayctl.model.naming import service_slug
from grayctl.model.plan import Compiled, Known, Plan, Refusal, Server, ServicePlan, Serving, Upstream, refusal_address
from grayctl.model.release import InForce, Protocol
from grayctl.model.tokens import Address, Expression, Note, Path, Seconds, Variable, Word
from grayctl.render.quoting import quote
from grayctl.render.templates import HTTP, PASS, SNIPPET, STREAM, Templates
from grayctl.settings import Settings, listen_address

_HEADER = "# grayctl "
_HEADER_WIDTH = 1000  # characters a line: nginx refuses a comment beyond 4096 bytes ("too long parameter")
_SHA_DIGITS = 16
# All upstreams of `http` share one zone: a thousand of their own would be half of what nginx takes for a reload
_ZONE = Word("grayctl.upstreams")
_ZONE_SMALLEST, _ZONE_PER_SERVER = 256, 2  # KiB; measured: half a KiB a server, the rest is for TLS sessions
# As service.conf.j2 writes a variable that has one value, and an upstream; what is written otherwise is not guessed at.
_CONSTANT = re.compile(r'^split_clients "" \$(\w+) \{ \* "?([A-Za-z0-9_.+-]{1,255})"?; \}$', re.MULTILINE)
_UPSTREAM = re.compile(r"^\s*upstream\s+([A-Za-z0-9_.+-]+)\s*\{", re.MULTILINE)
# Stands for the includes while the entry templates are rendered
_INCLUDES = Markup("@includes@")
_MODULUS = 1 << 256
_MENTION = re.compile(r"\$\{?(gray_\w+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What the nginx at hand understands."""

    http2: bool = True
    http2_directive: bool = False  # `http2 on;`, from 1.25.1; before that a parameter of `listen`


@dataclass(frozen=True, slots=True)
class ServerView:
    """A server, as templates see it."""

    address: Address
    weight: int
    backup: bool
    version: Note
    instance: Note


@dataclass(frozen=True, slots=True)
class UpstreamView:
    """An upstream, as templates see it. `method` is for comparing; `method_name` prints.

    `zone` is the name of its shared memory; `zone_size` is None for the zone that all share, whose size http.conf says.
    """

    name: Word
    zone: Word
    zone_size: Word | None
    method: str
    method_name: Word
    key: Expression | None
    keepalive: int
    max_fails: int
    fail_timeout: Seconds
    servers: tuple[ServerView, ...]


class ObjectHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The first lines of an object: what it serves, so that a restart, `status` and `generation diff` can tell.

    Only what changes nginx's behaviour, or must survive a restart, is in it: anything else would be a reload for
    nothing.

    Attributes:
        refused: it answers 503.
        released: it has or had a policy.
        in_force: the policy, without its revision: another text for the same policy is no reason to reload.
        known: address, port, weight, backup, version of the servers that were healthy last. Not their ids: a new
            id for the same server is no reason to reload.
    """

    service: str
    id: str
    refused: bool
    known: tuple[tuple[str, int, int, bool, str], ...] = ()
    in_force: InForce | msgspec.UnsetType = msgspec.UNSET
    released: bool | msgspec.UnsetType = msgspec.UNSET

    def servers(self) -> tuple[Server, ...]:
        """The known servers."""
        return tuple(
            Server(Address(host, port), weight, backup=backup, version=version)
            for host, port, weight, backup, version in self.known
        )


@dataclass(frozen=True, slots=True)
class Include:
    """The line that includes a service's object.

    Attributes:
        is_stream: it belongs into stream.conf, not into http.conf.
        is_released: the service has or had a policy.
    """

    line: str
    is_stream: bool
    is_released: bool

    @property
    def number(self) -> int:
        """The hash of all that."""
        text = f"{self.is_stream:d}{self.is_released:d}{self.line}"
        return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), "big")

    def takes_place_of(self, other: "Include | None") -> bool:
        """Whether it can be written over the other: an object's name is as long with any hash."""
        return (
            other is not None
            and len(self.line) == len(other.line)
            and (self.is_stream, self.is_released) == (other.is_stream, other.is_released)
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """The includes as the texts of http.conf and stream.conf, and where in these each stands: releases first, by name.

    Where a variable names the upstream nginx looks at one after another for each request: those that traffic is
    shifted between come first, so that thousands of others cost them nothing.
    """

    includes: Mapping[str, Include] = field(default_factory=dict)
    texts: tuple[str, str] = "", ""
    places: Mapping[str, int] = field(default_factory=dict)

    def of(self, includes: Mapping[str, Include]) -> "Listed":
        """The same of other includes; what only has another hash is written over the old."""
        stale = differing(includes, self.includes)
        if not all(name in includes and includes[name].takes_place_of(self.includes.get(name)) for name in stale):
            return _listed(includes)
        texts = list(self.texts)
        for name in stale:
            one, at = includes[name], self.places[name]
            text = texts[one.is_stream]
            texts[one.is_stream] = "".join((text[:at], one.line, text[at + len(one.line) :]))
        return Listed(includes, (texts[0], texts[1]), self.places)


def _listed(includes: Mapping[str, Include]) -> Listed:
    lines: tuple[list[str], list[str]] = [], []
    lengths = [0, 0]
    places: dict[str, int] = {}
    for name, one in sorted(includes.items(), key=lambda pair: (not pair[1].is_released, pair[0])):
        places[name] = lengths[one.is_stream]
        lines[one.is_stream].append(one.line)
        lengths[one.is_stream] += len(one.line)
    return Listed(includes, ("".join(lines[0]), "".join(lines[1])), places)


class Renderer:
    """Renders services one by one and remembers what it rendered, so that one change renders one object."""

    def __init__(self, templates: Templates, settings: Settings, dialect: Dialect) -> None:
        self._templates = templates
        self._settings = settings
        self._dialect = dialect
        self._plans: Mapping[str, ServicePlan] = Renewed()
        self._rendered: Mapping[str, Object] = Renewed()
        self._failed: Mapping[str, TemplateError] = Renewed()
        self._includes = Derived(self._include)
        self._listed = Listed()
        self._summed: tuple[Mapping[str, Include], int] = {}, 0
        self._peers = Derived(attrgetter("peers"))
        self._counted: tuple[Mapping[str, int], int] = {}, 0
        self._snippets = Derived(attrgetter("included"))
        self._digested: tuple[Mapping[str, Mapping[str, str]], str] = {}, ""

    def objects(self, plan: Plan) -> tuple[Mapping[str, Object], Mapping[str, TemplateError]]:
        """The object of every service that renders, and the error of every one that does not."""
        stale = differing(plan.services, self._plans)
        made = {service: self._service(plan.services[service]) for service in stale if service in plan.services}
        rendered = {
            service: kept(self._rendered, service, one) for service, one in made.items() if isinstance(one, Object)
        }
        failed = {service: one for service, one in made.items() if isinstance(one, TemplateError)}
        self._plans = plan.services
        self._rendered = renewed(self._rendered, stale, rendered)
        self._failed = renewed(self._failed, stale, failed)
        return self._rendered, self._failed

    def file_set(self, objects: Mapping[str, Object]) -> FileSet:
        """The entry files over `objects`, and the digest of it all.

        Raises:
            TemplateError: when http.conf.j2 or stream.conf.j2 fails: then no generation can be made.
        """
        settings, dialect = self._settings, self._dialect
        includes = self._includes.of(objects)
        self._listed = self._listed.of(includes)
        host, port = listen_address(settings.nginx.marker)
        http = self._templates.render(
            HTTP,
            includes=_INCLUDES,
            marker=Address(host, port),
            # the number is known only when the generation is written, and the digest must not depend on it
            generation=Note(GENERATION),
            refuse_bad_request=refusal_address(settings.nginx, Refusal.BAD_REQUEST),
            refuse_unavailable=refusal_address(settings.nginx, Refusal.UNAVAILABLE),
            refuse_grpc_bad_request=refusal_address(settings.nginx, Refusal.GRPC_BAD_REQUEST),
            refuse_grpc_unavailable=refusal_address(settings.nginx, Refusal.GRPC_UNAVAILABLE),
            zone=_ZONE,
            zone_size=self._zone_size(objects),
            http2=dialect.http2,
            http2_directive=dialect.http2_directive,
        )
        stream = self._templates.render(STREAM, includes=_INCLUDES)
        digest = _sha([http, stream, f"{self._sum_of(includes):x}", self._sha_of_snippets(objects)])
        http_lines, stream_lines = self._listed.texts
        return FileSet(objects, http.replace(_INCLUDES, http_lines), stream.replace(_INCLUDES, stream_lines), digest)

    def _include(self, one: Object) -> Include:
        line = f"include {quote(Path(f'{self._settings.state_dir}/objects/{one.filename}'))};\n"
        return Include(line, one.is_stream, one.is_released)

    def _sum_of(self, includes: Mapping[str, Include]) -> int:
        """A hash of the set of all includes: the sum of theirs, so that one that changes costs no look at the others.

        Source: AdHash, in Bellare and Micciancio, A New Paradigm for Collision-free Hashing: Incrementality at Reduced
        Cost, 1997.
        """
        before, total = self._summed
        for name in differing(includes, before):
            total += sum(sign * of[name].number for sign, of in ((1, includes), (-1, before)) if name in of)
        self._summed = includes, total % _MODULUS
        return self._summed[1]

    def _zone_size(self, objects: Mapping[str, Object]) -> Word:
        """A power of two that holds the servers of all upstreams."""
        before, total = self._counted
        now = self._peers.of(objects)
        total += sum(now.get(name, 0) - before.get(name, 0) for name in differing(now, before))
        self._counted = now, total
        return Word(f"{max(_ZONE_SMALLEST, 1 << (_ZONE_PER_SERVER * total).bit_length())}k")

    def _sha_of_snippets(self, objects: Mapping[str, Object]) -> str:
        """Over all snippets; while each is the very text of last time, as known from then."""
        snippets = self._snippets.of(objects)
        if snippets is not self._digested[0]:
            self._digested = snippets, _sha(text for _, one in sorted(snippets.items()) for text in one.values())
        return self._digested[1]

    def stub(self, plan: ServicePlan) -> Object:
        """The object of a service that cannot be rendered and never was: with the shipped templates."""
        return _render(plan, Templates())

    def _service(self, plan: ServicePlan) -> Object | TemplateError:
        try:
            return _render(plan, self._templates)
        except TemplateError as error:
            return error


def _render(plan: ServicePlan, templates: Templates) -> Object:
    variable, name = Variable(f"gray_{plan.id}"), Note(plan.service)
    body = templates.render(
        templates.for_service(plan.service),
        service=name,
        variable=variable,
        upstreams=tuple(_view(upstream) for upstream in plan.upstreams),
        tables=plan.tables,
    )
    protocol = plan.compiled.in_force.release.protocol if plan.compiled else Protocol.HTTP
    snippet = templates.render(
        SNIPPET,
        service=name,
        variable=variable,
        version=Variable(f"grayver_{plan.id}"),
        protocol=protocol,
        released=plan.released,
    )
    passing = templates.render(
        PASS,
        service=name,
        variable=variable,
        target=_target(body, variable),
        protocol=protocol,
        snippet=Markup(snippet),  # noqa: S704 -- nginx's language, and a template's own
    )
    return make_object(plan, body, snippet, passing)


def _target(body: str, variable: Variable) -> Word | Variable:
    """Where to pass requests: the upstream that `variable` always names, told from what the object really defines.

    A literal name costs nginx neither the comparison with all names at each request, nor (before 1.23.1) a TLS context
    at each reload. Where a template defines the variable otherwise, or another upstream, the variable says it.
    """
    values = [Word(value) for name, value in _CONSTANT.findall(body) if name == variable.name]
    mentions = sum(name.lower() == variable.name for name in _MENTION.findall(body)) if values else 0
    return values[0] if mentions == 1 and values[0].text in _UPSTREAM.findall(body) else variable


def make_object(plan: ServicePlan, body: str, snippet: str, passing: str) -> Object:
    """The object of a service: its header, then what the template made."""
    header = ObjectHeader(
        service=plan.service,
        id=plan.id,
        refused=plan.serving is Serving.REFUSED,
        in_force=_stored(plan.compiled),
        released=plan.released or msgspec.UNSET,
        known=tuple((one.address.host, one.address.port, one.weight, one.backup, one.version) for one in plan.known),
    )
    written = msgspec.json.encode(header).decode()
    lines = [f"{_HEADER}{written[at : at + _HEADER_WIDTH]}\n" for at in range(0, len(written), _HEADER_WIDTH)]
    content = "".join([STREAM_MARK if plan.is_stream else "", *lines, body])
    return Object(plan.service, service_slug(plan.service), _sha([content]), content, snippet, passing)


def _stored(compiled: Compiled | None) -> InForce | msgspec.UnsetType:
    if compiled is None:
        return msgspec.UNSET
    found = compiled.in_force
    return InForce(found.release, msgspec.structs.replace(found.live, revision=""))


def read_header(content: str) -> ObjectHeader | None:
    """What an object says about itself; None when its first lines say nothing readable."""
    lines = takewhile(lambda line: line.startswith(_HEADER), content.removeprefix(STREAM_MARK).split("\n"))
    try:
        return msgspec.json.decode("".join(line.removeprefix(_HEADER) for line in lines), type=ObjectHeader)
    except msgspec.DecodeError:
        return None


def known_of(objects: Mapping[str, Object]) -> dict[str, Known]:
    """What each service served last, as its object tells."""
    headers = {service: read_header(one.content) for service, one in objects.items()}
    return {
        service: Known(header.id, header.servers(), header.released is True)
        for service, header in headers.items()
        if header
    }


def in_force_of(objects: Mapping[str, Object]) -> dict[str, InForce]:
    """The policy that each service is served by, as its object tells."""
    headers = {service: read_header(one.content) for service, one in objects.items()}
    return {service: header.in_force for service, header in headers.items() if header and header.in_force}


def _view(upstream: Upstream) -> UpstreamView:
    return UpstreamView(
        name=upstream.name,
        zone=upstream.name if upstream.zone else _ZONE,
        zone_size=Word(upstream.zone) if upstream.zone else None,
        method=upstream.balance.method,
        method_name=Word(upstream.balance.method),
        key=upstream.balance.key,
        keepalive=upstream.keepalive,
        max_fails=upstream.max_fails,
        fail_timeout=Seconds(upstream.fail_timeout),
        servers=tuple(
            ServerView(one.address, one.weight, one.backup, Note(one.version), Note(one.instance))
            for one in upstream.servers
        ),
    )


def _sha(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:_SHA_DIGITS]
