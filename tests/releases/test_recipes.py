"""Every recipe in examples/releases keeps its promise: linted, rendered, loaded into a real nginx, and asked."""

import contextlib
import http.client
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from grayctl.cli import cli
from grayctl.model.plan import ServicePlan
from grayctl.model.release import Protocol
from grayctl.policy.document import read_document, read_release
from grayctl.policy.explain import explain
from grayctl.policy.lint import WARNING, lint
from grayctl.policy.live import follow
from grayctl.policy.request import Request
from grayctl.settings import NginxSettings, Settings
from tests.releases.clients import grpc_server, hears, speaker, threaded
from tests.releases.recipes import EDGE, FOLDER, PREVIEW, RECIPES, Ask, Recipe, Share
from tests.releases.site import Instance, plan_in_force, plan_of, served
from tests.support.edge import Edge
from tests.support.nginx import LOAD_STREAM, Prober
from tests.support.ports import free_block, free_ports
from tests.support.process import wait_until

USERS = 400  # for each share
SIGMAS = 5  # a share that is what it says leaves these bounds once in two million runs, and the salt is fixed

Client = Callable[[Ask], str]
"""Asks nginx, and says "version route", or the status of a refusal."""


def test_no_file_is_without_a_row() -> None:
    assert sorted(RECIPES) == sorted(path.stem for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", RECIPES)
def test_lint_has_nothing_to_say_against_it(name: str) -> None:
    document = read_document((FOLDER / f"{name}.yaml").read_bytes(), name)
    found = lint(document, lists=RECIPES[name].lists, versions=set(document.release.versions))
    assert [one.text for one in found if one.level == WARNING] == []


@pytest.mark.parametrize("name", RECIPES)
def test_it_does_what_it_promises(name: str, tmp_path: Path) -> None:
    recipe, (edge, preview) = RECIPES[name], free_ports(2)
    if name == "tcp" and LOAD_STREAM is None:
        pytest.skip("this nginx has no stream: on Debian it is libnginx-mod-stream")
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    text = text.replace(str(EDGE), str(edge)).replace(str(PREVIEW), str(preview))

    def here(one: Ask) -> Ask:
        return replace(one, port={EDGE: edge, PREVIEW: preview}[one.port])

    def spread(share: Share) -> None:
        """As many users on each version as the recipe says, within five standard deviations; and they stay there."""
        seen: Counter[str] = Counter()
        for one in map(here, map(share.user, range(USERS))):
            answered = ask(one)
            seen[answered] += 1
            if recipe.sticky:
                assert answered == ask(one) == _explained(plan, one), one
        assert seen.keys() <= share.wanted.keys()
        for wanted, part in share.wanted.items():
            assert abs(seen[wanted] - USERS * part) <= SIGMAS * math.sqrt(USERS * part * (1 - part)), (wanted, seen)

    protocol = read_release(text, name).protocol
    site = {Protocol.HTTP: _http, Protocol.GRPC: _grpc, Protocol.TCP: _tcp}[protocol]
    with site(tmp_path, text, recipe, edge, preview) as (ask, plan):
        for one in map(here, recipe.asks):
            assert (one, ask(one)) == (one, one.wanted)
            assert (one, _explained(plan, one)) == (one, one.wanted)
        for share in recipe.shares:
            spread(share)


def _explained(plan: ServicePlan, one: Ask) -> str:
    headers = tuple((name.encode(), value.encode()) for name, value in one.headers.items())
    country = {"geoip2_data_country_code": one.headers.get("X-Country", "").encode()}
    asked = Request(one.path.encode(), one.method.encode(), headers, one.address, one.port, country)
    told = explain(plan.service, plan.id, plan.tables, asked)
    return f"{told.version} {told.route}" if told.status == http.client.OK else str(told.status)


COMMANDS = re.findall(
    r"^    grayctl (explain .*?) +# (\S+), route (\S+)$",
    (FOLDER.parents[1] / "docs/releases.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize(("command", "answer", "route"), COMMANDS)
def test_explain_answers_what_the_documentation_says(
    command: str, answer: str, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDER)
    done = CliRunner().invoke(cli, shlex.split(command))
    assert done.exit_code == 0, done.output
    assert f"{'nginx answers' if answer.isdigit() else 'version'} {answer}\n  route     {route}\n" in done.output


@pytest.mark.parametrize(("nginx", "version"), [("1.22.1", "v2"), ("1.26.3", "v1"), ("", "v2")])
def test_explain_asks_the_nginx_of_this_machine_for_its_version(nginx: str, version: str, tmp_path: Path) -> None:
    """From 1.23 a repeated header is all of its lines."""
    binary = tmp_path / "nginx"
    if nginx:
        binary.write_text(f"#!/bin/sh\necho 'nginx version: nginx/{nginx}' >&2\n")
        binary.chmod(0o755)
    config = tmp_path / "grayctl.toml"
    config.write_text(f'[nginx]\nbinary = "{binary}"\n')
    files = ["--catalog", str(FOLDER.parent / "instances.yaml"), "--release", str(FOLDER / "header.yaml")]
    twice = ["-H", "X-Release-Version: v2", "-H", "X-Release-Version: v1"]
    done = CliRunner().invoke(cli, ["--config", str(config), "explain", "shop", *files, *twice])
    assert f"shop: version {version}\n" in done.output


def test_the_documentation_tries_most_recipes() -> None:
    tried = {shlex.split(command)[5].removesuffix(".yaml") for command, _, _ in COMMANDS}
    assert RECIPES.keys() - tried == {"weights", "staged", "everything"}


# ---------------------------------------------------------------- the three kinds of sites


def _instances(text: str, recipe: Recipe) -> dict[str, Instance]:
    """One for each version that the policy names, or that has a weight."""
    versions = recipe.weights or dict.fromkeys(read_release(text, "recipe").versions, 1)
    ports = free_ports(len(versions))
    return {version: Instance(port, version, versions[version]) for version, port in zip(versions, ports, strict=True)}


class _Http:
    """Keeps a connection to each port."""

    def __init__(self) -> None:
        self._connections: dict[int, http.client.HTTPConnection] = {}

    def ask(self, one: Ask) -> str:
        kept = self._connections.setdefault(one.port, http.client.HTTPConnection("127.0.0.1", one.port, timeout=10))
        kept.request(one.method, one.path, headers={**one.headers, "X-Test-Address": one.address})
        answer = kept.getresponse()
        answer.read()
        if answer.status != http.client.OK:
            return str(answer.status)
        return f"{answer.headers['X-Version']} {answer.headers['X-Route']}"

    def close(self) -> None:
        for one in self._connections.values():
            one.close()


@contextlib.contextmanager
def _http(folder: Path, text: str, recipe: Recipe, *ports: int) -> Iterator[tuple[Client, ServicePlan]]:
    refuse, instances = free_block(4), _instances(text, recipe)
    settings = Settings(nginx=NginxSettings(refuse=f"127.0.0.1:{refuse}"))
    plan = plan_of(text, instances.values(), recipe.lists, settings=settings)
    backends = "".join(
        f"server {{ listen 127.0.0.1:{one.port}; add_header X-Version {version}; return 200 ok; }}\n"
        for version, one in instances.items()
    )
    listens = "".join(f"listen 127.0.0.1:{port};" for port in ports)
    location = f"include {folder}/{plan.service}.snippet; proxy_pass http://$gray_{plan.id};"
    user = f"""
    {backends}
    server {{ listen 127.0.0.1:{refuse}; return 400; }}
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Test-Address;
    map $http_x_country $geoip2_data_country_code {{ default $http_x_country; }}
    server {{ {listens} location / {{ {location} add_header X-Route $grayroute_{plan.id}; }} }}
"""
    client = _Http()
    with served(folder, [plan], http=user, ports=ports), contextlib.closing(client):
        yield client.ask, plan


@contextlib.contextmanager
def _tcp(folder: Path, text: str, recipe: Recipe, *ports: int) -> Iterator[tuple[Client, ServicePlan]]:
    """Addresses arrive by the PROXY protocol, as from a balancer before nginx. A connection is told no route."""
    edge, instances = ports[0], _instances(text, recipe)
    plan = plan_of(text, instances.values(), recipe.lists)
    listen = f"listen 127.0.0.1:{edge} proxy_protocol; set_real_ip_from 127.0.0.1; proxy_pass $gray_{plan.id};"

    def ask(one: Ask) -> str:
        version = hears(edge, first=f"PROXY TCP4 {one.address} 127.0.0.1 1024 {edge}\r\n".encode())
        return f"{version} {_explained(plan, one).partition(' ')[2]}"

    with contextlib.ExitStack() as stack:
        for version, one in instances.items():
            stack.enter_context(threaded(speaker(version), one.port))
        stack.enter_context(served(folder, [plan], stream=f"server {{ {listen} }}", ports=[edge]))
        yield ask, plan


@contextlib.contextmanager
def _grpc(folder: Path, text: str, recipe: Recipe, *ports: int) -> Iterator[tuple[Client, ServicePlan]]:
    edge, instances = ports[0], _instances(text, recipe)
    plan = plan_of(text, instances.values(), recipe.lists)
    location = f"include {folder}/{plan.service}.snippet; grpc_pass grpc://$gray_{plan.id};"
    route = f"add_header X-Route $grayroute_{plan.id};"
    listen = f"server {{ listen 127.0.0.1:{edge} http2; location / {{ {location} {route} }} }}"
    services = {one.path.split("/")[1] for one in recipe.asks}
    with contextlib.ExitStack() as stack:
        for version, instance in instances.items():
            stack.callback(_stop, grpc_server(version, instance.port, *services))
        stack.enter_context(served(folder, [plan], http=listen, ports=[edge]))
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{edge}"))

        def ask(one: Ask) -> str:
            answer, call = channel.unary_unary(one.path).with_call(b"", timeout=10, metadata=[*one.headers.items()])
            return f"{answer.decode().split()[0]} {dict(call.initial_metadata())['x-route']}"

        yield ask, plan


def _stop(server: grpc.Server) -> None:
    server.stop(None).wait()


# ---------------------------------------------------------------- what single requests do not show


def test_growing_one_of_several_canaries_moves_nobody_off_another() -> None:
    text = (FOLDER / "several-canaries.yaml").read_text(encoding="utf-8")
    grown = text.replace("v2: 10", "v2: 40")
    before, after = read_release(text, "before"), read_release(grown, "after")
    instances = [Instance(80, version, host=f"127.0.0.{n}") for n, version in enumerate(before.versions, 1)]
    live = follow(before, "1", None, lambda: "salt")
    plans = [
        plan_in_force(before, live, instances),
        plan_in_force(after, follow(after, "2", live, lambda: "another"), instances),
    ]
    moved: Counter[tuple[str, str]] = Counter()
    for user in range(4000):
        old, new = (
            explain("shop", "shop", plan.tables, Request(headers=((b"X-User-ID", b"%d" % user),))).version
            for plan in plans
        )
        if old != new:
            moved[old, new] += 1
    assert moved.keys() == {("v1", "v2")}, "whoever leaves stable gets what has grown"


def alone(edge: Edge, name: str) -> bool:
    return edge.served(200).keys() == {name}


def test_blue_green_switches_everybody_at_once_and_back(edge: Edge) -> None:
    """Between two workers' configurations nginx takes connections with both: no request is lost, none is torn."""
    text = (FOLDER / "blue-green.yaml").read_text(encoding="utf-8")
    policy = edge.folder / "blue-green.yaml"
    policy.write_text(text, encoding="utf-8")
    edge.backend("blue", version="blue")
    edge.backend("green", version="green")
    edge.consul.put(f"{edge.folder.name}/releases/shop", text.encode())
    edge.up()
    wait_until(lambda: edge.serves("blue"), "blue is served alone")
    assert "shop: version green" in edge.cli("explain", "shop", "-H", "X-Preview: 1", "--port", "8081").stdout
    for written, before, after in ((_exchanged(text), "blue", "green"), (text, "green", "blue")):
        policy.write_text(written, encoding="utf-8")
        with Prober(edge.nginx, "/") as prober:
            done = edge.cli("release", "apply", str(policy), "--yes", "--reason", "switch")
            assert done.returncode == 0, done.stderr
            wait_until(partial(alone, edge, after), f"{after} is served alone")
            wait_until(partial(prober.bodies.count, f"{after}\n"), "the prober has seen it")
        assert {*prober.bodies} == {f"{before}\n", f"{after}\n"}


def _exchanged(text: str) -> str:
    return text.replace("stable: blue", "stable: green").replace("preview: green", "preview: blue")
