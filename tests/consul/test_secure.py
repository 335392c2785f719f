"""ACLs and TLS, against real agents: empty is not gone, and nobody is believed without a certificate."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from grayctl.consul.client import ConsulClient, Right
from grayctl.errors import ConsulDenied, ConsulUnreachable
from grayctl.settings import ConsulSettings, Secret
from tests.support.certificates import Authority
from tests.support.consul import ACL_CONFIG, ACL_TOKEN, Consul, MakeConsul
from tests.support.watching import make_settings, watching

NOTHING = 'key "unrelated" { policy = "read" }'


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    """An agent that denies by default; its own token may do everything."""
    agent = Consul(tmp_path_factory.mktemp("acl"), token=ACL_TOKEN, config=ACL_CONFIG)
    yield agent
    agent.stop()


def rules(name: str) -> str:
    """What a daemon that watches `name*`, with its KV prefix, must be allowed."""
    return f"""
        service_prefix "{name}" {{ policy = "read" }}
        node_prefix "" {{ policy = "read" }}
        key_prefix "{name}/" {{ policy = "read" }}
    """


async def test_denials_by_kind_of_token(guarded: Consul, unique: str) -> None:
    """FACTS: anonymous gets nothing, politely; only an unknown token is refused."""
    guarded.register(unique, unique, "10.0.0.1", 80)
    async with ConsulClient(ConsulSettings(address=guarded.address), connections=2) as anonymous:
        assert (await anonymous.health(unique)).value == ()
        assert (await anonymous.kv(unique)).value == ()
        right = Right("service", unique)
        assert await anonymous.lacks([right]) == (right,)
        with pytest.raises(ConsulDenied):
            await anonymous.put(unique, b"x", cas=0)
    unknown = ConsulSettings(address=guarded.address, token=Secret("00000000-aaaa-bbbb-cccc-000000000000"))
    async with ConsulClient(unknown, connections=2) as client:
        reads = (client.services(), client.health(unique), client.kv(unique), client.glance())
        for call in (*reads, client.lacks([right])):
            with pytest.raises(ConsulDenied, match="token"):
                await call
    async with ConsulClient(ConsulSettings(address=guarded.address, token=Secret(ACL_TOKEN)), connections=2) as root:
        assert len((await root.health(unique)).value) == 1
        assert await root.lacks([right]) == ()


async def test_rights_cannot_be_asked_where_acls_are_off(consul: Consul) -> None:
    async with ConsulClient(ConsulSettings(address=consul.address), connections=2) as client:
        assert await client.lacks([Right("service", "shop")]) == ()


async def test_a_token_that_loses_its_rights_empties_nothing(guarded: Consul, unique: str) -> None:
    """Every answer becomes an empty 200 or 404; what was published stands, and one event names the right."""
    guarded.register(unique, f"{unique}-1", "10.0.0.1", 80)
    guarded.put(f"{unique}/releases/shop", "stable: v1")
    token, policy = guarded.make_token(rules(unique))
    settings = make_settings(
        guarded.address, f"{unique}*", consul={"token": Secret(token), "prefix": unique}, watch={"wait": 1.0}
    )
    with structlog.testing.capture_logs() as logs:
        async with watching(settings) as watch:
            await watch.complete()
            guarded.change_policy(policy, NOTHING)
            query = f"health {unique}"
            await watch.until(lambda: {query, "kv releases"} <= set(watch.watcher.state.denied), "the denials")
            assert watch.ids(unique) == [f"{unique}-1"]
            assert watch.value("releases") == [b"stable: v1"]
            assert watch.watcher.state.connected, "a denial is an answer"
            assert f"service '{unique}'" in next(line["error"] for line in logs if line.get("query") == query)

            guarded.change_policy(policy, rules(unique))
            guarded.register(unique, f"{unique}-2", "10.0.0.2", 80)
            await watch.until(lambda: len(watch.ids(unique)) == 2, "the second instance")
            await watch.until(lambda: not watch.watcher.state.denied, "no denial any more")
            assert all(watch_wake.catalog.services[unique] for watch_wake in watch.wakes)
    denied = [line["query"] for line in logs if line["event"] == "consul_denied"]
    assert len(denied) == len(set(denied)), "each denial is one event"
    assert token not in str(logs)


async def test_a_token_replaced_while_running(guarded: Consul, unique: str, tmp_path: Path) -> None:
    """The old one is deleted: 403, and the file's new one is used without a restart."""
    guarded.register(unique, f"{unique}-1", "10.0.0.1", 80)
    first, _ = guarded.make_token(rules(unique))
    second, _ = guarded.make_token(rules(unique))
    file = tmp_path / "token"
    file.write_text(first)
    settings = make_settings(
        guarded.address, f"{unique}*", consul={"token_file": str(file), "prefix": unique}, watch={"wait": 1.0}
    )
    async with watching(settings) as watch:
        await watch.complete()
        accessor = next(
            one["AccessorID"]
            for one in guarded.call("GET", "/v1/acl/tokens")
            if guarded.call("GET", f"/v1/acl/token/{one['AccessorID']}")["SecretID"] == first
        )
        guarded.call("DELETE", f"/v1/acl/token/{accessor}")
        await watch.until(lambda: watch.watcher.state.denied, "the deleted token to be refused")
        assert watch.ids(unique) == [f"{unique}-1"]
        file.write_text(second)
        guarded.register(unique, f"{unique}-2", "10.0.0.2", 80)
        await watch.until(lambda: len(watch.ids(unique)) == 2, "the second instance with the second token")
        await watch.until(lambda: not watch.watcher.state.denied, "no denial any more")


# ---------------------------------------------------------------- TLS


async def test_tls_with_client_certificate_and_server_name(make_consul: MakeConsul, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "ca"), Authority(tmp_path, "stranger")
    certificate, key = authority.issue("server", dns="server.dc1.consul")
    client_certificate, client_key = authority.issue("client")
    agent = make_consul(
        https=True,
        config={
            "ca_file": str(authority.ca_file),
            "cert_file": str(certificate),
            "key_file": str(key),
            "verify_incoming_https": True,
        },
    )
    address = f"https://127.0.0.1:{agent.https_port}"
    good: dict[str, Any] = {
        "ca_file": str(authority.ca_file),
        "cert_file": str(client_certificate),
        "key_file": str(client_key),
        "tls_server_name": "server.dc1.consul",
    }
    async with ConsulClient(ConsulSettings(address=address, **good), connections=2) as client:
        assert await client.glance()
        assert (await client.services()).value
    for wrong in (
        {"tls_server_name": ""},
        {"tls_server_name": "other.consul"},
        {"ca_file": str(stranger.ca_file)},
        {"ca_file": ""},
        {"cert_file": "", "key_file": ""},
    ):
        async with ConsulClient(ConsulSettings(address=address, **(good | wrong)), connections=2) as client:
            with pytest.raises(ConsulUnreachable) as caught:
                await client.glance()
            assert address in str(caught.value)
    plain = ConsulSettings(address=address.replace("https", "http"))
    async with ConsulClient(plain, connections=2) as client:
        with pytest.raises(Exception, match="Consul at"):
            await client.glance()


async def test_the_watcher_over_tls(make_consul: MakeConsul, tmp_path: Path, unique: str) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server", ip="127.0.0.1")
    agent = make_consul(https=True, config={"cert_file": str(certificate), "key_file": str(key)})
    agent.register(unique, f"{unique}-1", "10.0.0.1", 80)
    settings = make_settings(
        f"https://127.0.0.1:{agent.https_port}", unique, consul={"ca_file": str(authority.ca_file)}
    )
    async with watching(settings) as watch:
        await watch.complete()
        agent.register(unique, f"{unique}-2", "10.0.0.2", 80)
        await watch.until(lambda: len(watch.ids(unique)) == 2, "the second instance")
