"""The services of one contender: in Consul, as they should be served, and what changes in them."""

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

from grayctl.model.release import Live
from grayctl.policy.document import read_release
from grayctl.policy.live import encode_live, follow, revision_of
from tests.bench.machines import VERSIONS, Stage, address, server_line
from tests.support.consul import Consul

INSTANCES = 10
CHANGING = 10
# nginx compares the names of upstreams and variables with one another, and most cheaply those that differ in length
_WORDS = (
    "cart",
    "checkout",
    "user-profile",
    "search-api",
    "web",
    "recommendation-engine",
    "login",
    "price-history",
    "mail",
)
KINDS = ("weight", "new instance", "failing instance", "KV")
NODE = {"Node": "bench", "Address": "127.0.0.1"}
_IN_ONE = 60  # Consul takes 64 operations in one transaction
_SHARE = 10  # percent, of v2


@dataclass(frozen=True, slots=True)
class Instance:
    """One registration under a check of its own."""

    id: str
    address: str
    version: str = "v1"
    weight: int = 1
    passing: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one service: `send` makes it in Consul, by one request.

    Attributes:
        shown: whether a service's configuration has it.
    """

    service: str
    send: Callable[[], None]
    shown: Callable[[str], bool]


class Fleet:
    """`size` plain services, and `released`, which has two versions between
    which a key gives shares.

    `services` are all of them: the released one, those that change, at most ten and spread evenly, and the others.

    Changes come in the order of `KINDS`: the instance that is new is the one that fails next, and is then taken out, so
    that every service has ten again.
    """

    def __init__(self, name: str, size: int, here: Stage, numbers: Iterator[int], changing: int = CHANGING) -> None:
        self.released = f"{name}-released"
        plain = [f"{_WORDS[number % len(_WORDS)]}-{number}-{name}" for number in range(size)]
        self.changing = plain[:: max(1, size // changing)][:changing]
        self.services = (self.released, *self.changing, *(one for one in plain if one not in set(self.changing)))
        self.key = f"bench/{name}/share"
        self.share = _SHARE
        self._numbers = numbers  # of addresses
        self._consul = here.consul
        self._port = here.backends.port
        self._made = count(1)
        self._live: Live | None = None
        self._failing = ""
        self.instances = {service: [self._instance(service) for _ in range(INSTANCES)] for service in self.services}
        self.instances[self.released] = [
            replace(self._instance(self.released), version=VERSIONS[number % 2]) for number in range(INSTANCES)
        ]

    def _instance(self, service: str) -> Instance:
        number = next(self._numbers)
        return Instance(f"{service}-{number}", address(number))

    def register(self) -> None:
        """Bring all of it to Consul."""
        self._consul.call("PUT", "/v1/catalog/register", NODE)
        every = [
            operation
            for service, instances in self.instances.items()
            for one in instances
            for operation in (
                {"Service": {"Verb": "set", "Node": NODE["Node"], "Service": self._service(service, one)}},
                {"Check": {"Verb": "set", "Check": self._check(service, one)}},
            )
        ]
        for at in range(0, len(every), _IN_ONE):
            self._consul.call("PUT", "/v1/txn", every[at : at + _IN_ONE])
        self._consul.put(self.key, str(self.share))

    def release(self, prefix: str) -> None:
        """Write the policy of the released service as `release apply` does, for a grayctl with this prefix."""
        self._releasing(prefix)()

    def _releasing(self, prefix: str) -> Callable[[], None]:
        """What writes it; it is worked out before, as by whoever runs `release apply`."""
        text = (
            f"service: {self.released}\nstable: {VERSIONS[0]}\nidentity: [client_ip]\n"
            f"traffic: {{{VERSIONS[1]}: {self.share}}}\n"
        ).encode()
        self._live, send = applying(self._consul, prefix, self.released, text, self._live)
        return send

    # ------------------------------------------------------------ changes

    def change(self, kind: str, prefix: str | None) -> Change:
        """The next change of a kind; `prefix` is that of a grayctl, whose key is a policy."""
        number = next(self._made)
        if kind == "KV":
            self.share = _SHARE + number % 50
            send = self._releasing(prefix) if prefix else (lambda: self._consul.put(self.key, str(self.share)))
            share = re.compile(rf"\b{self.share}(\.0+)?%")
            return Change(self.released, send, lambda text: share.search(text) is not None)
        service = self.changing[number % len(self.changing)]
        instances = self.instances[service]
        match kind:
            case "weight":
                one = instances[0] = replace(instances[0], weight=2 + number % 90)
            case "new instance":
                one = self._instance(service)
                instances.append(one)
            case _:
                service = next(name for name in self.changing if len(self.instances[name]) > INSTANCES)
                one = replace(self.instances[service].pop(), passing=False)
                self._failing = one.id
        body = NODE | {
            "SkipNodeUpdate": True,
            "Service": self._service(service, one),
            "Check": self._check(service, one),
        }
        line = server_line(one.address, self._port, one.weight)
        return Change(
            service,
            lambda: self._consul.call("PUT", "/v1/catalog/register", body),
            lambda text: (line in text) == one.passing,
        )

    def tidy(self) -> None:
        """Take out the instance that fails, if there is one: it is not served any more."""
        if self._failing:
            self._consul.call("PUT", "/v1/catalog/deregister", {"Node": NODE["Node"], "ServiceID": self._failing})
        self._failing = ""

    def servers(self, service: str, version: str = "") -> str:
        """The `server` lines of a service, of one version where that is given, as they shall be served."""
        return "".join(
            f"    {server_line(one.address, self._port, one.weight)}\n"
            for one in self.instances[service]
            if version in {"", one.version}
        )

    def _service(self, service: str, one: Instance) -> dict[str, object]:
        return {
            "ID": one.id,
            "Service": service,
            "Address": one.address,
            "Port": self._port,
            "Meta": {"version": one.version},
            "Weights": {"Passing": one.weight, "Warning": 1},
        }

    def _check(self, service: str, one: Instance) -> dict[str, object]:
        return {
            "Node": NODE["Node"],
            "CheckID": f"{one.id}:check",
            "Name": "check",
            "ServiceID": one.id,
            "ServiceName": service,
            "Status": "passing" if one.passing else "critical",
        }


def apply(consul: Consul, prefix: str, service: str, text: bytes, before: Live | None) -> Live:
    """Write a policy and its live record in one transaction, as `release apply` does; `before` is the last record."""
    live, send = applying(consul, prefix, service, text, before)
    send()
    return live


def applying(
    consul: Consul, prefix: str, service: str, text: bytes, before: Live | None
) -> tuple[Live, Callable[[], None]]:
    """The live record of a policy, and what writes the two."""
    live = follow(read_release(text, "policy"), revision_of(text), before, lambda: "salt")
    operations = [
        {"KV": {"Verb": "set", "Key": f"{prefix}/{kind}/{service}", "Value": base64.b64encode(value).decode()}}
        for kind, value in (("releases", text), ("live", encode_live(live)))
    ]
    return live, lambda: consul.call("PUT", "/v1/txn", operations)
