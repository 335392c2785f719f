"""Whatever people write into a registration: no server, decision or directive that the model did not intend."""

import os
import re
import secrets
import subprocess
from collections import Counter
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import crossplane
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grayctl.model.catalog import Catalog, Health, Registration
from grayctl.model.generation import FileSet, Object
from grayctl.model.plan import Known, Plan
from grayctl.policy.resolve import Limits, resolve
from grayctl.render.fileset import Dialect, Renderer, known_of
from grayctl.render.templates import Templates
from grayctl.settings import NginxSettings, ServiceSettings, Settings, listen_address
from tests.support.hostile import ENDLESS, HALF, NASTY, PLAIN, RESOLVED, Hostile, Model, packed
from tests.support.nginx import BINARY
from tests.support.ports import free_block, free_ports

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "400"))  # hypothesis: few registrations each, and it shrinks
REGISTRATIONS = int(os.environ.get("HOSTILE_REGISTRATIONS", "100000"))  # in bulk, over all shards
SHARDS = 4
TEMPLATES = Templates()
BALANCES = ["ip_hash", "least_conn", "random", "hash $request_uri", "round_robin"]
WRITTEN = {
    "round_robin": [],
    "least_conn": ["least_conn"],
    "ip_hash": ["ip_hash"],
    "random": ["random two least_conn"],
    "hash $request_uri": ["hash $request_uri consistent"],
}

text = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
anything = st.one_of(text, st.just(HALF))
addresses = st.one_of(
    anything, st.sampled_from(["name.example", "10.0.0.1", "10.0.0.2", "2001:db8::1", "::ffff:10.1.2.3", "127.0.0.1"])
)
names = st.one_of(text.filter(bool), st.sampled_from(["shop", "Shop", "shop-api", "shop.api", "shop_api"]))
values = st.one_of(anything, st.sampled_from(["v1", "v2", "1.10", "5", "20", "true"]))
pairs = st.dictionaries(st.one_of(anything, st.sampled_from(["version", "weight", "backup"])), values, max_size=4)
tags = st.lists(
    st.one_of(
        anything, values.map("version={}".format), values.map("weight={}".format), values.map("backup={}".format)
    ),
    max_size=3,
)


@st.composite
def registrations(draw: st.DrawFn, service: str) -> Registration:
    return Registration(
        service=service,
        id=draw(anything),
        node=draw(anything),
        node_address=draw(addresses),
        address=draw(addresses),
        port=draw(st.one_of(st.integers(-10, 70000), st.integers())),
        tags=tuple(draw(tags)),
        meta=tuple(sorted(draw(pairs).items())),
        weights=draw(st.tuples(st.integers(-5, 70000), st.integers(-5, 70000))),
        health=draw(st.sampled_from(Health)),
        created=draw(st.integers(0, 50)),
    )


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    services = {}
    for service in draw(st.lists(names, max_size=4, unique=True)):
        services[service] = tuple(draw(st.lists(registrations(service), max_size=5)))
    resolved = st.lists(st.sampled_from(RESOLVED), max_size=3)
    return Catalog(services=services, names={name: tuple(draw(resolved)) for name in ("name.example", "localhost")})


def _settings(folder: Path, ports: tuple[int, int] = (8409, 8410)) -> Settings:
    """Every way of balancing is somebody's."""
    nginx = NginxSettings(marker=f"127.0.0.1:{ports[0]}", refuse=f"127.0.0.1:{ports[1]}")
    own = zip(["shop", "Shop", "shop-api", "shop.api", "$host", *PLAIN], cycle(BALANCES), strict=False)
    services = {service: ServiceSettings(balance=balance) for service, balance in own}
    return Settings(state_dir=str(folder), nginx=nginx, services=services)


def _planned(catalog: Catalog, wish: Settings) -> Plan:
    return resolve(catalog, {}, wish, Limits())


def _rendered(plan: Plan, wish: Settings) -> FileSet:
    renderer = Renderer(TEMPLATES, wish, Dialect())
    return renderer.file_set(renderer.objects(plan)[0])


def _parsed(content: str, folder: Path) -> list[dict[str, Any]]:
    path = folder / "object.conf"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    payload = crossplane.parse(str(path), single=True, comments=False, check_ctx=False, check_args=False)
    assert payload["status"] == "ok", payload["errors"]
    parsed: list[dict[str, Any]] = payload["config"][0]["parsed"]
    return parsed


def _compare(catalog: Catalog, plan: Plan, objects: Mapping[str, Object], model: Model, wish: Settings) -> None:
    """Parse what was rendered, and compare it with the Plan line by line, and with the model server by server."""
    folder = Path(wish.state_dir)
    assert plan.refused.keys() == model.refused(catalog)
    assert objects.keys() == plan.services.keys() == (catalog.services.keys() | model.last.keys()) - plan.refused.keys()
    for service, one in plan.services.items():
        directives = _parsed(objects[service].content, folder)
        assert [directive["directive"] for directive in directives] == ["upstream", "split_clients"]
        upstream, constant = directives
        (meant,) = one.upstreams
        assert upstream["args"] == [meant.name.text]
        servers = [inner["args"] for inner in upstream["block"] if inner["directive"] == "server"]
        assert servers == [
            [
                server.address.text,
                *([f"weight={server.weight}"] if server.weight != 1 else []),
                *(["backup"] if server.backup else []),
            ]
            for server in meant.servers
        ]
        balance = wish.service(service).balance
        wanted = model.servers(catalog, service, balance)
        ways = [inner for inner in upstream["block"] if inner["directive"] not in {"zone", "server", "keepalive"}]
        assert [" ".join([way["directive"], *way["args"]]) for way in ways] == (WRITTEN[balance] if wanted else [])
        assert constant["args"] == ["", f"$gray_{one.id}"]
        assert [(inner["directive"], inner["args"]) for inner in constant["block"]] == [("*", [meant.name.text])]
        served = [(packed(one.address.host), one.address.port, one.weight, one.backup) for one in meant.servers]
        assert len(set(served)) == len(served)
        refusal = listen_address(wish.nginx.refuse)
        assert set(served) == (wanted or {(packed(refusal[0]), refusal[1] + 1, 1, False)})


def _nginx_says(folder: Path, files: FileSet, *, http: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "objects").mkdir(exist_ok=True)
    for one in files.objects.values():
        (folder / "objects" / one.filename).write_bytes(one.content.encode("utf-8", "surrogatepass"))
    (folder / "http.conf").write_text(files.http, encoding="utf-8")
    conf = folder / "nginx.conf"
    conf.write_text(
        f"pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {http} include {folder}/http.conf; }}\n",
        encoding="utf-8",
    )
    return subprocess.run([BINARY, "-t", "-c", conf], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_hundred_thousand_registrations(tmp_path: Path, shard: int) -> None:
    """In all shards together; each life of a catalog ends with a real `nginx -t` on everything it published.

    `HOSTILE_SEED` repeats a run, `HOSTILE_REGISTRATIONS` makes it longer.
    """
    seed = os.environ.get("HOSTILE_SEED") or secrets.token_hex(4)
    print(f"HOSTILE_SEED={seed}")
    hostile = Hostile(Random(f"{seed} {shard}"))
    wish = _settings(tmp_path, (free_ports(1)[0], free_block(4)))
    seen: Counter[str] = Counter()
    while seen["registrations"] < REGISTRATIONS / SHARDS:
        _live(hostile, wish, seen)
    print(dict(seen))
    assert all(seen[what] for what in ("live", "kept", "refused", "dropped", "quarantined")), seen


def _live(hostile: Hostile, wish: Settings, seen: Counter[str]) -> None:
    """Some changes of one catalog, as one node sees them: names stay, the last known instances are kept."""
    names, model, renderer = hostile.names(24), Model(), Renderer(TEMPLATES, wish, Dialect())
    known: dict[str, Known] = {}
    plan = None
    for _ in range(4):
        catalog = hostile.catalog(names, 60)
        plan = resolve(catalog, known, wish, Limits(), plan)
        objects, failed = renderer.objects(plan)
        assert not failed
        _compare(catalog, plan, objects, model, wish)
        files = renderer.file_set(objects)
        assert _rendered(resolve(hostile.shuffled(catalog), known, wish, Limits()), wish) == files
        known |= known_of(objects)
        seen["registrations"] += sum(map(len, catalog.services.values()))
        seen["quarantined"] += len(plan.refused)
        for one in plan.services.values():
            seen[one.serving] += 1
            seen["dropped"] += len({finding.instance for finding in one.findings if finding.dropped})
            seen["servers"] += len(one.upstreams[0].servers)
    tested = _nginx_says(Path(wish.state_dir), files)
    assert tested.returncode == 0, tested.stderr
    seen["nginx -t"] += 1


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(catalogs())
def test_the_output_says_what_the_plan_says_and_nothing_else(tmp_path_factory: Any, catalog: Catalog) -> None:
    wish = _settings(tmp_path_factory.mktemp("hostile"))
    plan = _planned(catalog, wish)
    objects, failed = Renderer(TEMPLATES, wish, Dialect()).objects(plan)
    assert not failed
    _compare(catalog, plan, objects, Model(), wish)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(catalogs(), st.randoms(use_true_random=False))
def test_the_order_of_answers_never_shows(catalog: Catalog, random: Any) -> None:
    """Services and registrations in any order give the same bytes."""
    shuffled = Hostile(random).shuffled(catalog)
    wish = _settings(Path("/nowhere"))
    first, second = (_rendered(_planned(one, wish), wish) for one in (catalog, shuffled))
    assert first == second


@settings(max_examples=max(20, EXAMPLES // 20), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(catalogs(), min_size=3, max_size=8))
def test_real_nginx_accepts_it(tmp_path_factory: Any, batch: list[Catalog]) -> None:
    folder = tmp_path_factory.mktemp("nginx")
    wish = _settings(folder, (free_ports(1)[0], free_block(4)))
    merged = Catalog(
        services={name: rows for catalog in batch for name, rows in catalog.services.items()}, names=batch[0].names
    )
    tested = _nginx_says(folder, _rendered(_planned(merged, wish), wish))
    assert tested.returncode == 0, tested.stderr


@pytest.mark.parametrize("bucket", [64, 128])
def test_a_name_at_the_limit_is_taken_by_nginx_too(tmp_path: Path, bucket: int) -> None:
    """One letter more, and nginx would refuse everything without naming a file: so we do, with the line to write."""
    limits, hash_size = Limits(bucket), f"variables_hash_bucket_size {bucket};"
    names = "f" * limits.longest_id, "g" * (limits.longest_id + 1)
    catalog = Catalog(services=dict.fromkeys(names, ()))
    wish = _settings(tmp_path, (free_ports(1)[0], free_block(4)))
    plan = resolve(catalog, {}, wish, limits)
    assert [*plan.services] == [names[0]]
    assert _nginx_says(tmp_path, _rendered(plan, wish), http=hash_size).returncode == 0
    both = _rendered(resolve(catalog, {}, wish, Limits(1024)), wish)
    assert "could not build variables_hash" in _nginx_says(tmp_path, both, http=hash_size).stderr
    (advice,) = re.findall(r"'(variables_hash_bucket_size \d+;)'", plan.refused[names[1]])
    assert _nginx_says(tmp_path, both, http=advice).returncode == 0


@pytest.mark.parametrize("endless", [ENDLESS, "\x01" * 5000, "🦀" * 5000])
def test_no_text_is_too_long_for_a_comment(tmp_path: Path, endless: str) -> None:
    """nginx takes no token beyond 4096 bytes, not even a comment: an endless id must not cost a service its place."""
    (tmp_path / "service.conf.j2").write_text(
        "# {{ service }} {{ upstreams[0].servers[0].instance }}\nsplit_clients '' {{ variable }} { * 1; }\n"
    )
    row = Registration(service="shop", id=endless, address="10.0.0.1", port=80)
    wish = _settings(tmp_path, (free_ports(1)[0], free_block(4)))
    renderer = Renderer(Templates(str(tmp_path)), wish, Dialect())
    objects, failed = renderer.objects(_planned(Catalog(services={"shop": (row,)}), wish))
    assert not failed
    tested = _nginx_says(tmp_path, renderer.file_set(objects))
    assert tested.returncode == 0, tested.stderr


def test_a_catalog_survives_its_json() -> None:
    """Reports and tests pass catalogs as JSON."""
    catalog = Catalog(services={"shop": (Registration(service="shop", id="a", meta=(("version", "v1"),)),)})
    assert msgspec.json.decode(msgspec.json.encode(catalog), type=Catalog) == catalog
