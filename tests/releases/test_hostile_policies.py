"""Whatever text stands in a policy that may be followed: nginx takes what comes of it, and no directive is its own."""

import json
import os
import re
import subprocess
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import crossplane
import msgspec

from grayctl.errors import ReleaseError
from grayctl.model.catalog import Catalog, Health, Registration
from grayctl.model.generation import FileSet
from grayctl.policy.document import read_release
from grayctl.policy.resolve import Limits, resolve
from grayctl.release_file import offline
from grayctl.render.fileset import Renderer
from grayctl.render.templates import Templates
from grayctl.settings import NginxSettings, Settings
from tests.support.nginx import BINARY, DIALECT
from tests.support.policies import FIELDS, NASTY, routed, when
from tests.support.ports import free_block, free_ports

if TYPE_CHECKING:
    from collections.abc import Callable

POLICIES = int(os.environ.get("HOSTILE_POLICIES", "450"))
SEED = os.environ.get("HOSTILE_SEED", "4")
BATCH = 150  # services in one configuration
LETTERS = "ab01.-_/$*~\\\"'{};: ,()[]?+|^#&=%<>!@`é北\u00a0"
READ = re.compile(r"\$(1|remote_addr|(http|cookie|arg)_[A-Za-z0-9_]+)\Z")
VARIABLE = re.compile(r"\$gray[a-z0-9]*_s[0-9]+\Z")


def hostile_text(random: Random) -> str:
    if random.random() < 0.5:
        return random.choice(NASTY) + random.choice(["", "", random.choice(NASTY)])
    return "".join(random.choices(LETTERS, k=random.randint(1, random.choice([3, 12, 60]))))


def hostile_policy(random: Random) -> dict[str, Any]:
    """One that may be followed, with a hostile text in one field at least."""
    ways: dict[str, Callable[[str], dict[str, Any]]] = {
        **{field: write for field, (write, _) in FIELDS.items() if field not in {"service", "hash"}},
        "host": lambda text: routed({"host": {random.choice(["prefix", "suffix", "regex", "exact"]): text}}),
        "region": lambda text: routed({"region": "r"}, regions={"r": {"variable": "$host", "values": [text, "b"]}}),
        "values": lambda text: routed({"header": {"X": [text, *(hostile_text(random) for _ in range(20))]}}),
        "number": lambda _text: when(
            f'header("X") {random.choice(["<", "<=", ">", ">=", "=="])} '
            f"{random.choice(['', '-'])}{random.randrange(10 ** random.randint(1, 250))}"
        ),
        "named": lambda text: {
            "stable": "v1",
            "traffic": {"v2": 5},
            "identity": [{"cookie": text}, {"query": "a[b]"}, "client_ip"],
            "explicit": {"query": text, "unknown": "reject"},
        },
    }
    while True:
        write = random.choice(list(ways.values()))
        policy = {**write(hostile_text(random)), "service": "s"}
        try:
            read_release(json.dumps(policy), "p")
        except ReleaseError:
            continue
        return policy


def rendered(folder: Path, policies: list[dict[str, Any]]) -> FileSet:
    marker, refuse = free_ports(1)[0], free_block(4)
    nginx = NginxSettings(marker=f"127.0.0.1:{marker}", refuse=f"127.0.0.1:{refuse}")
    settings = msgspec.structs.replace(Settings(), state_dir=str(folder), nginx=nginx)
    files, services = [], {}
    for at, policy in enumerate(policies):
        files.append(folder / f"{at}.json")
        files[-1].write_text(json.dumps({**policy, "service": f"s{at}"}), encoding="utf-8")
        versions = read_release(json.dumps(policy), "p").versions
        services[f"s{at}"] = tuple(
            Registration(
                service=f"s{at}",
                id=version,
                node="n",
                node_address="10.0.0.1",
                port=1 + number,
                meta=(("version", version),),
                health=Health.PASSING,
            )
            for number, version in enumerate(versions)
        )
    plan = resolve(Catalog(services=services), {}, settings, Limits(), standing=offline(files))
    renderer = Renderer(Templates(), settings, DIALECT)
    objects, failed = renderer.objects(plan)
    assert not failed
    assert not plan.refused
    return renderer.file_set(objects)


def check_directives(path: Path) -> None:
    """Upstreams of our servers, and tables that set our variables: each entry a key and a value, none an option."""
    payload = crossplane.parse(str(path), single=True, comments=False, check_ctx=False, check_args=False)
    assert payload["status"] == "ok", payload["errors"]
    for directive in payload["config"][0]["parsed"]:
        inner = directive["block"]
        assert not any(one.get("block") for one in inner)
        if directive["directive"] == "upstream":
            servers = [one["args"][0] for one in inner if one["directive"] == "server"]
            assert servers
            assert all(server.startswith(("10.0.0.1:", "127.0.0.1:")) for server in servers)
            continue
        assert directive["directive"] in {"map", "geo", "split_clients"}
        assert VARIABLE.match(directive["args"][-1]), directive["args"]
        assert all(len(one["args"]) == 1 for one in inner)
        assert not {one["directive"] for one in inner} & {"include", "volatile", "hostnames", "ranges", "delete"}
        for one in inner:
            (value,) = one["args"]
            assert "$" not in value or READ.match(value) or VARIABLE.match(value), value


def test_no_text_of_a_policy_is_a_directive_and_nginx_takes_them_all(tmp_path: Path) -> None:
    random = Random(SEED)
    for number in range(0, POLICIES, BATCH):
        folder = tmp_path / str(number)
        (folder / "objects").mkdir(parents=True)
        policies = [hostile_policy(random) for _ in range(BATCH)]
        files = rendered(folder, policies)
        for one in files.objects.values():
            path = folder / "objects" / one.filename
            path.write_text(one.content, encoding="utf-8")
            check_directives(path)
        (folder / "http.conf").write_text(files.http, encoding="utf-8")
        conf = folder / "nginx.conf"
        conf.write_text(
            f"pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
            f"http {{ access_log off; variables_hash_max_size 8192; include {folder}/http.conf; }}\n",
            encoding="utf-8",
        )
        said = subprocess.run([BINARY, "-t", "-c", conf], capture_output=True, text=True, timeout=60, check=False)
        assert said.returncode == 0, said.stderr
        assert "[warn]" not in said.stderr
