"""Lua blocks are read as Lua: what nginx takes, the tree has whole."""

import subprocess
from pathlib import Path

import pytest

from grayctl.nginx.lua import DIRECTIVES
from grayctl.nginx.tree import read
from tests.support.nginx import BINARY, MODULES

CODES = [
    "ngx.say('}')",
    'ngx.say("{\\"}")',
    "ngx.say([[}]])",
    "ngx.say([==[ ]] } ]=] ]==])",
    "-- don't }\nngx.say(1)",
    "--[[ don't }\n } ]] ngx.say(1)",
    "--[==[ ]] } ]==] ngx.say(1)",
    "--- [[ }\nngx.say(1)",
    "local t = {a = {b = '\\\\'}} if t.a then ngx.say(#t.a - -1) end",
    "local t, u = {1}, {1} ngx.say(t[u[1]])",
    "ngx.say('\\'}', \"'\", '\\\\')",
    "local re = ngx.re.match('a{2}', \"(?<x>[}{]+)\", 'jo') -- }",
    "",
    "return -- proxy_pass http://$gray_x/; }",
]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("directive", ["content_by_lua_block", "set_by_lua_block $x", "server_rewrite_by_lua_block"])
def test_the_code_is_one_argument_and_what_follows_is_seen(tmp_path: Path, directive: str, code: str) -> None:
    conf = tmp_path / "nginx.conf"
    conf.write_text(f"events {{}}\nhttp {{\nserver {{\n{directive} {{\n{code}\n}}\nserver_name after;\n}}\n}}\n")
    tree = read(conf, tmp_path / "state")
    assert tree.http is not None
    (server,) = tree.http.own("server")
    name, *arguments = directive.split()
    first, second = server.block or ()
    assert (first.name, first.args) == (name, (*arguments, f"\n{code}\n"))
    assert (first.line, second.line) == (4, 7 + code.count("\n"))
    assert second.text == "server_name after;"


@pytest.mark.parametrize("code", CODES)
def test_nginx_takes_what_the_tests_take_for_lua(tmp_path: Path, code: str) -> None:
    if not (MODULES / "ngx_http_lua_module.so").exists():
        pytest.skip("no Lua module here: it is a package of its own, and the reader needs none")
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        f"load_module {MODULES}/ndk_http_module.so; load_module {MODULES}/ngx_http_lua_module.so;\n"
        f"pid {tmp_path}/p; error_log {tmp_path}/e; events {{}}\n"
        f"http {{ access_log off; server {{ location / {{ content_by_lua_block {{\n{code}\n}} }} }} }}\n"
    )
    done = subprocess.run([BINARY, "-t", "-c", conf], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", ["content_by_lua_block", "content_by_lua_block;", "content_by_lua_block { '"])
def test_a_block_that_never_ends_ends_the_reader(tmp_path: Path, text: str) -> None:
    """Nothing hangs and nothing is lost in silence: nginx refuses such a file, and says why."""
    conf = tmp_path / "nginx.conf"
    conf.write_text(f"worker_processes 2;\n{text}")
    assert read(conf, tmp_path / "state").main.last("worker_processes") == "2"


def test_every_phase_is_known() -> None:
    assert {"content_by_lua_block", "balancer_by_lua_block", "exit_worker_by_lua_block"} < set(DIRECTIVES)
