"""Whatever people write into a registration: no server, decision or directive that the model did not intend."""

import contextlib
import ipaddress
import os
import subprocess
from pathlib import Path
from typing import Any

import crossplane
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grayctl.model.catalog import Catalog, Health, Registration
from grayctl.model.plan import Plan, Serving
from grayctl.policy.resolve import Limits, resolve
from grayctl.render.fileset import Dialect, Renderer
from grayctl.render.templates import Templates
from grayctl.settings import NginxSettings, ServiceSettings, Settings
from tests.support.nginx import BINARY
from tests.support.ports import free_block, free_ports

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "400"))
TEMPLATES = Templates()
BALANCES = ["ip_hash", "least_conn", "random", "hash $request_uri", "round_robin"]
WRITTEN = {
    "round_robin": [],
    "least_conn": ["least_conn"],
    "ip_hash": ["ip_hash"],
    "random": ["random two least_conn"],
    "hash $request_uri": ["hash $request_uri consistent"],
}

# What would hurt if it were printed as it is, and what merely looks odd.
NASTY = [
    "; }", "}\nserver { listen 80; }", "$host", "${x}", "~.", "default", "hostnames", "include /etc/passwd", '"', "'",
    "\\",
    "\n", "\r\n", "\x00", "#", "{", "a b", "127.0.0.1;", "10.0.0.1:80", "[::1]", "::1%eth0", "unix:/tmp/x", "localhost",
    "*", "v1; return 200", "\u2028", "ünïcode", "🦀", "x" * 300, "-1", "0", "1e3", "99999999999", "0x10", " 5", "٣", "",
]  # fmt: skip
# A registration's service name is UTF-8 (JSON cannot bring anything else); its other fields must survive even this.
HALF = "half \ud83e"
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
    resolved = st.lists(st.sampled_from(["10.9.0.1", "10.9.0.2", "2001:db8::9", "; }", "::1%lo"]), max_size=3)
    return Catalog(services=services, names={name: tuple(draw(resolved)) for name in ("name.example", "localhost")})


def _settings(folder: Path, ports: tuple[int, int] = (8409, 8410)) -> Settings:
    """Every way of balancing is somebody's."""
    nginx = NginxSettings(marker=f"127.0.0.1:{ports[0]}", refuse=f"127.0.0.1:{ports[1]}")
    own = zip(["shop", "Shop", "shop-api", "shop.api", "$host"], BALANCES, strict=True)
    services = {service: ServiceSettings(balance=balance) for service, balance in own}
    return Settings(state_dir=str(folder), nginx=nginx, services=services)


def _intended(catalog: Catalog, service: str) -> set[tuple[str, int]]:
    """Every host and port that somebody healthy registered, judged without the code under test."""
    found = set()
    for one in catalog.services[service]:
        if one.health is Health.PASSING and 0 < one.port < 65536:
            host = one.address or one.node_address
            for address in catalog.names.get(host, (host,)):
                with contextlib.suppress(ValueError):
                    found.add((str(ipaddress.ip_address(address.strip("[]"))), one.port))
    return found


def _planned(catalog: Catalog, wish: Settings) -> Plan:
    return resolve(catalog, {}, wish, Limits())


def _parsed(content: str, folder: Path) -> list[dict[str, Any]]:
    path = folder / "object.conf"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    payload = crossplane.parse(str(path), single=True, comments=False, check_ctx=False, check_args=False)
    assert payload["status"] == "ok", payload["errors"]
    parsed: list[dict[str, Any]] = payload["config"][0]["parsed"]
    return parsed


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(catalogs())
def test_the_output_says_what_the_plan_says_and_nothing_else(tmp_path_factory: Any, catalog: Catalog) -> None:
    """Parse what was rendered and compare upstreams, servers and constants with the Plan, one by one."""
    folder = tmp_path_factory.mktemp("hostile")
    wish = _settings(folder)
    plan = _planned(catalog, wish)
    objects, failed = Renderer(TEMPLATES, wish, Dialect()).objects(plan)
    assert not failed
    assert objects.keys() == plan.services.keys()
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
                f"weight={server.weight}",
                "max_fails=1",
                "fail_timeout=10s",
                *(["backup"] if server.backup else []),
            ]
            for server in meant.servers
        ]
        ways = [inner for inner in upstream["block"] if inner["directive"] not in {"zone", "server", "keepalive"}]
        refused = one.serving is Serving.REFUSED
        assert [" ".join([way["directive"], *way["args"]]) for way in ways] == (
            [] if refused else WRITTEN[wish.service(service).balance]
        )
        assert constant["args"] == ["", f"$gray_{one.id}"]
        assert [(inner["directive"], inner["args"]) for inner in constant["block"]] == [("*", [meant.name.text])]
        served = {(server.address.host, server.address.port) for server in meant.servers}
        assert served == {("127.0.0.1", 8411)} if refused else served <= _intended(catalog, service)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(catalogs(), st.randoms(use_true_random=False))
def test_the_order_of_answers_never_shows(catalog: Catalog, random: Any) -> None:
    """Services and registrations in any order give the same bytes."""
    services = [(name, list(rows)) for name, rows in catalog.services.items()]
    random.shuffle(services)
    for _, rows in services:
        random.shuffle(rows)
    shuffled = Catalog(services={name: tuple(rows) for name, rows in services}, names=catalog.names)
    wish = _settings(Path("/nowhere"))
    first, second = (
        Renderer(TEMPLATES, wish, Dialect()).file_set(
            Renderer(TEMPLATES, wish, Dialect()).objects(_planned(one, wish))[0]
        )
        for one in (catalog, shuffled)
    )
    assert first == second


@settings(max_examples=max(20, EXAMPLES // 20), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(catalogs(), min_size=3, max_size=8))
def test_real_nginx_accepts_it(tmp_path_factory: Any, batch: list[Catalog]) -> None:
    folder = tmp_path_factory.mktemp("nginx")
    wish = _settings(folder, (free_ports(1)[0], free_block(4)))
    merged = Catalog(
        services={name: rows for catalog in batch for name, rows in catalog.services.items()}, names=batch[0].names
    )
    renderer = Renderer(TEMPLATES, wish, Dialect())
    objects, _ = renderer.objects(_planned(merged, wish))
    files = renderer.file_set(objects)
    (folder / "objects").mkdir()
    for one in files.objects.values():
        (folder / "objects" / one.filename).write_bytes(one.content.encode("utf-8", "surrogatepass"))
    (folder / "http.conf").write_text(files.http, encoding="utf-8")
    conf = folder / "nginx.conf"
    conf.write_text(
        f"pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; include {folder}/http.conf; }}\n",
        encoding="utf-8",
    )
    tested = subprocess.run([BINARY, "-t", "-c", conf], capture_output=True, text=True, timeout=60, check=False)
    assert tested.returncode == 0, tested.stderr


def test_a_catalog_survives_its_json() -> None:
    """Reports and tests pass catalogs as JSON."""
    catalog = Catalog(services={"shop": (Registration(service="shop", id="a", meta=(("version", "v1"),)),)})
    assert msgspec.json.decode(msgspec.json.encode(catalog), type=Catalog) == catalog
