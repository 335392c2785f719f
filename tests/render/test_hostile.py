"""Whatever people write into a registration: no server, decision or directive that the model did not intend."""

import os
import subprocess
from collections.abc import Mapping
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
from grayctl.settings import NginxSettings, Settings
from tests.support.nginx import BINARY
from tests.support.ports import free_block, free_ports

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "400"))
TEMPLATES = Templates()

# What would hurt if it were printed as it is, and what merely looks odd.
NASTY = [
    "; }", "}\nserver { listen 80; }", "$host", "${x}", "~.", "default", "hostnames", "include /etc/passwd", '"', "'",
    "\\",
    "\n", "\r\n", "\x00", "#", "{", "a b", "127.0.0.1;", "10.0.0.1:80", "[::1]", "::1%eth0", "unix:/tmp/x", "localhost",
    "*", "v1; return 200", "\u2028", "ünïcode", "🦀", "x" * 300, "-1", "0", "1e3", "99999999999", "0x10", " 5", "٣", "",
]  # fmt: skip
text = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
addresses = st.one_of(text, st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1", "::ffff:10.1.2.3", "127.0.0.1"]))
names = st.one_of(text.filter(bool), st.sampled_from(["shop", "Shop", "shop-api", "shop.api", "shop_api"]))
values = st.one_of(text, st.sampled_from(["v1", "v2", "1.10", "5", "20", "true"]))
pairs = st.dictionaries(st.one_of(text, st.sampled_from(["version", "weight", "backup"])), values, max_size=4)
tags = st.lists(
    st.one_of(text, values.map("version={}".format), values.map("weight={}".format), values.map("backup={}".format)),
    max_size=3,
)


@st.composite
def registrations(draw: st.DrawFn, service: str) -> Registration:
    return Registration(
        service=service,
        id=draw(text),
        node=draw(text),
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
    return Catalog(services=services)


def _settings(folder: Path, ports: tuple[int, int] = (8409, 8410)) -> Settings:
    nginx = NginxSettings(marker=f"127.0.0.1:{ports[0]}", refuse=f"127.0.0.1:{ports[1]}")
    return Settings(state_dir=str(folder), nginx=nginx)


def _planned(catalog: Catalog, wish: Settings) -> Plan:
    return resolve(catalog, {}, wish, Limits())


def _parsed(content: str, folder: Path) -> list[dict[str, Any]]:
    path = folder / "object.conf"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    payload = crossplane.parse(str(path), single=True, comments=False, check_ctx=False, check_args=False)
    assert payload["status"] == "ok", payload["errors"]
    parsed: list[dict[str, Any]] = payload["config"][0]["parsed"]
    return parsed


def _server_words(server: Mapping[str, Any]) -> list[str]:
    words: list[str] = server["args"]
    return words


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
        assert {inner["directive"] for inner in upstream["block"]} <= {"zone", "server", "keepalive"}
        assert constant["args"] == ["", f"$gray_{one.id}"]
        assert [(inner["directive"], inner["args"]) for inner in constant["block"]] == [("*", [meant.name.text])]
        healthy = {
            registration.id for registration in catalog.services[service] if registration.health is Health.PASSING
        }
        if one.serving is Serving.LIVE:
            assert {server.instance for server in meant.servers} <= healthy


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(catalogs(), st.randoms(use_true_random=False))
def test_the_order_of_answers_never_shows(catalog: Catalog, random: Any) -> None:
    """Services and registrations in any order give the same bytes."""
    services = [(name, list(rows)) for name, rows in catalog.services.items()]
    random.shuffle(services)
    for _, rows in services:
        random.shuffle(rows)
    shuffled = Catalog(services={name: tuple(rows) for name, rows in services})
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
    merged = Catalog(services={name: rows for catalog in batch for name, rows in catalog.services.items()})
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
