"""nginx reads http.conf and then a pass file: a flip between the two gives it some of each generation."""

import re
import subprocess
from pathlib import Path

import pytest

from grayctl.model.plan import Plan, ServicePlan
from grayctl.policy.resolve import stub
from grayctl.render.fileset import Dialect, Renderer
from grayctl.render.templates import Templates
from grayctl.settings import Settings
from tests.releases.site import Instance, plan_of
from tests.support.nginx import BINARY, LOAD_STREAM
from tests.support.process import clean_env


def release(text: str) -> ServicePlan:
    return plan_of(f"service: shop\n{text}", [Instance(80, "v1"), Instance(81, "v2")])


STATES = {
    "unknown": stub("shop", Settings()),
    "v1": release("stable: v1"),
    "canary": release("stable: v1\ntraffic: {v2: 10}"),
    "v2": release("stable: v2"),
    "weights": release("stable: v1\ntraffic: weights"),
    "grpc": release("stable: v1\nprotocol: grpc"),
    "tcp": release("stable: v1\nprotocol: tcp"),
}


@pytest.mark.parametrize("passed", STATES)
@pytest.mark.parametrize("defined", STATES)
def test_a_flip_between_two_reads_gets_the_reload_refused_or_serves(defined: str, passed: str, tmp_path: Path) -> None:
    """What is served then is one of the two generations' upstreams: grayctl's own reload follows at once."""
    objects = {}
    for state in (defined, passed):
        renderer = Renderer(Templates(), Settings(state_dir=str(tmp_path)), Dialect())
        objects[state] = renderer.objects(Plan({"shop": STATES[state]}, {}))[0]["shop"]
    one, other = objects[defined], objects[passed]
    (tmp_path / one.filename).write_text(one.content, encoding="utf-8")
    (tmp_path / "pass.conf").write_text(other.passing, encoding="utf-8")
    entries = {one.is_stream: f"include {tmp_path}/{one.filename};"}
    (tmp_path / "nginx.conf").write_text(
        f"""{LOAD_STREAM or ""}
pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}
{f"stream {{ {entries[True]} }}" if True in entries else ""}
http {{
    access_log off;
    upstream grayctl.upstreams {{ zone grayctl.upstreams 256k; server 127.0.0.1:9; }}
    map $http_upgrade $gray_connection {{ default upgrade; "" ""; }}
    {entries.get(False, "")}
    server {{ listen unix:{tmp_path}/socket; location / {{ include {tmp_path}/pass.conf; }} }}
}}
""",
        encoding="utf-8",
    )
    done = subprocess.run(
        [BINARY, "-t", "-q", "-c", tmp_path / "nginx.conf", "-p", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_env({"RES_OPTIONS": "timeout:1 attempts:1"}),
    )
    literal = other.passing.rstrip(";\n").rpartition(" ")[2].rpartition("/")[2]
    variables = set(re.findall(r"\$gray\w*_shop", other.passing))
    is_known = not one.is_stream and all(f"{name} " in one.content for name in variables)
    is_there = literal in variables or f"upstream {literal} {{" in one.content
    is_http = not one.is_stream and not other.is_stream
    assert (done.returncode == 0) == (is_http and is_known and is_there), done.stderr
    if done.returncode and is_known:
        assert f"{tmp_path}/pass.conf" in done.stderr, "the file is named, so grayctl's check knows whose fault it is"
