"""A real Consul agent of one's own, and the plain calls that tests make to it (synchronous, urllib)."""

import base64
import http
import json
import re
import resource
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_block
from tests.support.process import start, stop, wait_until

REPOSITORY = Path(__file__).parents[2]
# No proxy of the environment may stand between a test and its agent.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def consul_binary() -> str:
    """`consul` on PATH, else the repository's cache; a missing one fails the run, it does not skip."""
    found = shutil.which("consul") or str(REPOSITORY / ".cache" / "consul" / "consul")
    if not Path(found).exists():
        pytest.fail("no consul binary: put it on PATH or let `bash tests/run.sh` fetch it", pytrace=False)
    return found


@cache
def consul_version() -> tuple[int, ...]:
    """Such as (1, 8, 7)."""
    said = subprocess.run([consul_binary(), "version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in re.findall(r"\d+", said.partition("\n")[0])[:3])


class Consul:
    """An agent with ports and a directory of its own; a single server, ready when the constructor returns.

    Args:
        folder: for its configuration, data and log.
        token: sent by the methods here.
        persistent: keeps its data across `restart`; otherwise a restart loses everything.
        config: merged into the agent's configuration, `ports` key by key.
        https: also listen for TLS, on `https_port`.
        servers: how many the cluster has; 0 for an agent that is none. See `make_cluster`.
        start: do it now.
    """

    def __init__(
        self,
        folder: Path,
        *,
        token: str = "",
        persistent: bool = False,
        https: bool = False,
        config: Mapping[str, Any] | None = None,
        servers: int = 1,
        start: bool = True,
    ) -> None:
        self.folder = folder
        self.token = token
        self.persistent = persistent
        self.servers = servers
        self.log = folder / "consul.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.http_port = free_block(5)
        self.https_port = self.http_port + 4
        extra = dict(config or {})
        ports = {
            "dns": -1,
            "grpc": -1,
            "https": self.https_port if https else -1,
            "http": self.http_port,
            "server": self.http_port + 1,
        }
        if consul_version() >= (1, 14):
            ports["grpc_tls"] = -1  # a server's default is a fixed port; older ones do not know the key
        ports |= {"serf_lan": self.http_port + 2, "serf_wan": self.http_port + 3}
        self.config = {
            "node_name": f"node-{self.http_port}",
            "node_id": str(uuid.uuid4()),
            "bind_addr": "127.0.0.1",
            "disable_update_check": True,
            "check_update_interval": "0s",  # or the agent keeps changes of output alone to itself for minutes
            "ports": ports | extra.pop("ports", {}),
            "performance": {"raft_multiplier": 1},
        } | extra
        folder.mkdir(parents=True, exist_ok=True)
        if start:
            self.start()

    @property
    def address(self) -> str:
        """As for `consul.address` in the settings."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def gossip(self) -> str:
        """Where others join it."""
        return f"127.0.0.1:{self.http_port + 2}"

    @property
    def is_leader(self) -> bool:
        """Whether the leader it knows is itself."""
        return bool(self.call("GET", "/v1/status/leader") == f"127.0.0.1:{self.http_port + 1}")

    @property
    def node(self) -> str:
        """The node's name."""
        return str(self.config["node_name"])

    # ------------------------------------------------------------ the process

    def start(self, *, wait: bool = True) -> None:
        """Start the agent; with `wait`, return when it has a leader and its own node is in the catalog."""
        (self.folder / "agent.json").write_text(json.dumps(self.config))
        kind = ["-server", f"-bootstrap-expect={self.servers}"] if self.servers else []
        kind = [*kind, f"-data-dir={self.folder / 'data'}"] if self.persistent else ["-dev"]
        command = [consul_binary(), "agent", *kind, f"-config-file={self.folder / 'agent.json'}"]
        # a login's limit of open files is 1024, and an agent that may have more connections than it has files ends
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.process = start(["prlimit", f"--nofile={files}", *command], log=self.log)
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Return when the agent answers and has a leader."""
        wait_until(self._is_ready, f"Consul to be ready; see {self.log}", seconds=60)

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """End the agent; SIGKILL for a crash."""
        if self.process is not None:
            stop(self.process, sig=sig)

    def restart(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """End it and start it on the same ports."""
        self.stop(sig)
        self.start()

    def lose_data(self) -> None:
        """Empty its data directory, while it is stopped."""
        shutil.rmtree(self.folder / "data")

    def suspend(self) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, sig: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(sig)

    def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"Consul ended with {self.process.returncode}: {self.log.read_text()[-2000:]}")
        try:
            nodes = self.call("GET", "/v1/catalog/nodes")
        except OSError:
            return False
        return any(node["Node"] == self.node for node in nodes or ())

    # ------------------------------------------------------------ calls

    def call(self, method: str, path: str, body: object = None, *, token: str = "") -> Any:
        """One API call, with `token` or else our own; the decoded JSON, or None for an empty body.

        Raises:
            urllib.error.HTTPError: for a status other than 2xx.
        """
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = token or self.token
        headers = {"X-Consul-Token": sent} if sent else {}
        request = urllib.request.Request(f"{self.address}{path}", data=data, method=method, headers=headers)  # noqa: S310 -- loopback http
        try:
            with _OPENER.open(request, timeout=20) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection; a socket that is found as garbage fails whatever test runs then
            raise
        return json.loads(text) if text.strip() else None

    def register(  # noqa: PLR0917 -- the order in which one says it
        self,
        service: str,
        id: str,  # noqa: A002 -- Consul's word
        address: str,
        port: int,
        version: str | None = None,
        weight: int | str | None = None,
        tags: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
        health: str = "passing",
        **more: object,
    ) -> None:
        """Register with the agent, under a TTL check that never expires in a test; `more` are Consul's fields."""
        known = {"version": version, "weight": weight}
        own = {key: str(value) for key, value in known.items() if value is not None}
        body = {
            "ID": id,
            "Name": service,
            "Address": address,
            "Port": port,
            "Tags": list(tags),
            "Meta": own | dict(meta or {}),
            "Check": {"CheckID": f"{id}:ttl", "Name": "ttl", "TTL": "24h", "Status": health},
        }
        self.call("PUT", "/v1/agent/service/register", body | more)

    def deregister(self, id: str) -> None:  # noqa: A002 -- Consul's word
        """Take an instance out; one that is gone already stays gone."""
        try:
            self.call("PUT", f"/v1/agent/service/deregister/{id}")
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.NOT_FOUND:  # newer agents say so, 1.8 says nothing
                raise

    def set_check(self, id: str, status: str, output: str = "") -> None:  # noqa: A002 -- Consul's word
        """Set the health of an instance: passing, warning or critical."""
        self.call("PUT", f"/v1/agent/check/update/{id}:ttl", {"Status": status, "Output": output})

    def maintenance(self, id: str, *, enable: bool) -> None:  # noqa: A002 -- Consul's word
        """Put an instance into maintenance, or back."""
        self.call("PUT", f"/v1/agent/service/maintenance/{id}?enable={str(enable).lower()}")

    def put(self, key: str, value: str | bytes) -> None:
        """Write a key."""
        self.call("PUT", f"/v1/kv/{key}", value.encode() if isinstance(value, str) else value)

    def delete(self, key: str) -> None:
        """Delete a key."""
        self.call("DELETE", f"/v1/kv/{key}")

    def get(self, key: str) -> bytes | None:
        """A key's value; None when there is no such key."""
        try:
            found = self.call("GET", f"/v1/kv/{key}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return base64.b64decode(found[0]["Value"] or "")

    def make_token(self, rules: str) -> tuple[str, str]:
        """A new ACL token with one policy of its own; returns (secret id, policy id)."""
        name = f"p-{uuid.uuid4().hex[:8]}"
        policy = self.call("PUT", "/v1/acl/policy", {"Name": name, "Rules": rules})
        token = self.call("PUT", "/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})
        return token["SecretID"], policy["ID"]

    def revoke(self, secret: str) -> None:
        """Delete the token with this secret id."""
        accessor = self.call("GET", "/v1/acl/token/self", token=secret)["AccessorID"]
        self.call("DELETE", f"/v1/acl/token/{accessor}")

    def change_policy(self, policy: str, rules: str) -> None:
        """Replace a policy's rules."""
        current = self.call("GET", f"/v1/acl/policy/{policy}")
        self.call("PUT", f"/v1/acl/policy/{policy}", {"Name": current["Name"], "ID": policy, "Rules": rules})


MakeConsul = Callable[..., Consul]
ACL_TOKEN = "e2e00000-0000-0000-0000-000000000001"
ACL_CONFIG: dict[str, Any] = {
    "acl": {"enabled": True, "default_policy": "deny", "tokens": {"master": ACL_TOKEN, "agent": ACL_TOKEN}}
}


@pytest.fixture(scope="session")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    """One agent for all ordinary tests of this worker: use names from `unique`, and break nothing."""
    agent = Consul(tmp_path_factory.mktemp("consul"))
    yield agent
    agent.stop()


@pytest.fixture
def make_consul(tmp_path: Path) -> Iterator[MakeConsul]:
    """Agents of one's own, to break: `make_consul(**Consul's arguments)`."""
    made: list[Consul] = []

    def make(**arguments: Any) -> Consul:
        made.append(Consul(tmp_path / f"consul-{len(made)}", **arguments))
        return made[-1]

    yield make
    for agent in made:
        agent.stop(signal.SIGKILL)


def make_cluster(make_consul: MakeConsul) -> tuple[list[Consul], Consul]:
    """Three servers that keep their data, and an agent that is none, ready."""
    servers = [make_consul(persistent=True, servers=3, start=False) for _ in range(3)]
    client = make_consul(persistent=True, servers=0, start=False)
    for one in (*servers, client):
        one.config |= {"retry_join": [peer.gossip for peer in servers if peer is not one], "retry_interval": "1s"}
        one.start(wait=False)
    for one in (*servers, client):
        one.wait_ready()
    return servers, client


@pytest.fixture
def unique() -> str:
    """A name that no other test uses: for services, instances and key prefixes on the shared agent."""
    return f"t{uuid.uuid4().hex[:10]}"
