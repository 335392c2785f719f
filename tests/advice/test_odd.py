"""No rule falls over on an odd configuration, and what nginx takes gives no false alarm."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grayctl.advice.finding import Level
from grayctl.advice.survey import CONFIGURATION
from grayctl.advice.view import Decision, View
from grayctl.nginx.tree import read
from grayctl.settings import parse
from tests.advice.test_configuration import ELSEWHERE
from tests.support.advised import PASS, SNIPPET, Bench
from tests.support.nginx import LOAD_STREAM, MODULES
from tests.support.rights import demand_root

LUA = MODULES / "ngx_http_lua_module.so"
LOW_PORTS = "every way to listen"
HOME = f"{SNIPPET}\n{PASS}"

# name -> (what to write, what else may be said)
VALID: dict[str, tuple[dict[str, Any], set[str]]] = {
    "globs that match nothing, and more than one": (
        {"http": "include {folder}/none/*.conf;\ninclude {folder}/m?re/[ab]*.conf;", "files": {"more/a.conf": "# a"}},
        set(),
    ),
    "an include that includes an include by a relative path": (
        {"server": "include more/a.inc;", "files": {"more/a.inc": "include more/b.inc;", "more/b.inc": "expires 1h;"}},
        set(),
    ),
    "locations in locations, ifs in them": (
        {
            "location": f"{SNIPPET}\nlocation /a {{\nlocation /a/b {{\n{PASS}\n}}\nif ($arg_x) {{\n{PASS}\n}}"
            f"\n{PASS}\n}}\nif ($http_user_agent ~* '(a|b);{{}}') {{\nreturn 403;\n}}\n{PASS}"
        },
        set(),
    ),
    "limit_except": ({"location": f"{SNIPPET}\nlimit_except GET {{\ndeny all;\n}}\n{PASS}"}, set()),
    "named locations and regular expressions": (
        {
            "server": f"error_page 502 = @back;\nlocation @back {{\n{HOME}\n}}\n"
            f'location ~* "^/(?<name>[a-z]{{2,4}})$" {{\n{HOME}\n}}'
        },
        set(),
    ),
    "variables in proxy_pass": (
        {
            "http": 'map $uri $other { default "127.0.0.1:1"; }',
            "server": "location /a {\nproxy_pass $scheme://$other$request_uri;\n}\n"
            "location /b {\nproxy_pass http://$other/b;\n}\nlocation /c {\nproxy_pass http://127.0.0.1:1$uri;\n}\n"
            f"location /d {{\n{SNIPPET}\nproxy_pass http://$gray_shop$uri$is_args$args;\n}}",
        },
        set(),
    ),
    "unix sockets": (
        {
            "http": "upstream u {\nserver unix:/run/u.sock fail_timeout=0;\n}",
            "server": "listen unix:{folder}/x.sock;\nlocation /u {\nproxy_pass http://unix:/run/a.sock:/x/;\n}\n"
            "location /f {\nfastcgi_pass unix:/run/f.sock;\n}\nlocation /v {\nproxy_pass http://u;\n}",
        },
        {"unix-listener"},
    ),
    LOW_PORTS: (
        {
            "server": "listen [::1]:{web} ipv6only=on;\nlisten 127.0.0.1;\nlisten *:81 default_server backlog=10;\n"
            "listen 82 reuseport;\nserver_name '' _ ~^(?<a>.+)\\.x$ *.example.com;"
        },
        set(),
    ),
    "quotes, escapes and comments": (
        {
            "http": 'map $uri $q { default \'a "b" \\\'c\\\'\'; "~^/x{1,2}" "}; {"; } # } { ;\n'
            'log_format f \'{"a": "$uri"}\'\n  escape=json;',
            "server": 'add_header X-A "a;b{c}" always; # proxy_pass http://$gray_nobody;\nset $x "${uri}x";',
        },
        set(),
    ),
    "tables of the user's own": (
        {
            "http": "geo $g {\ndefault 0;\n10.0.0.0/8 1;\n}\nmap $g $h {\nhostnames;\nvolatile;\ndefault a;\n}\n"
            "split_clients $remote_addr $s {\n0.5% a;\n* b;\n}\ntypes {\ntext/x x;\n}\n"
            "charset_map koi8-r utf-8 {\nC0 D18E;\n}"
        },
        set(),
    ),
    "a server without a location, and an empty file": (
        {"http": "server {\n}\ninclude more/e.inc;", "files": {"more/e.inc": ""}},
        set(),
    ),
    "two http directives on a line, carriage returns": ({"http": "sendfile on; tcp_nopush on;\r\ngzip off;\r"}, set()),
}
if LUA.exists():
    VALID["lua blocks"] = (
        {
            "main": f"worker_shutdown_timeout 5m;\nload_module {MODULES}/ndk_http_module.so;\nload_module {LUA};",
            "http": "lua_shared_dict d 1m;\ninit_by_lua_block {\n local t = { a = '}' } -- }\n"
            ' if t.a then t.b = "{" end\n}',
            "server": "location /l {\ncontent_by_lua_block {\n  ngx.say([[}]] .. 'proxy_pass http://$gray_nobody/;')\n}\n}",
            "location": f"set_by_lua_block $x {{\n return '{{'\n}}\n{HOME}",
        },
        set(),
    )
if LOAD_STREAM is not None:
    VALID["stream"] = (
        {
            "main": f"worker_shutdown_timeout 5m;\n{LOAD_STREAM}\nstream {{\n"
            "include {state}/current/stream.conf;\nlog_format b '$remote_addr';\n"
            "upstream t {\nserver 127.0.0.1:1;\nserver unix:/x.sock;\n}\n"
            "map $ssl_preread_server_name $to {\ndefault t;\n}\n"
            "server {\nlisten 127.0.0.1:{web} udp;\nproxy_pass $to;\naccess_log off;\n}\n}"
        },
        set(),
    )


@pytest.mark.parametrize("name", VALID)
def test_an_odd_configuration_that_nginx_takes_is_judged_without_a_false_alarm(bench: Bench, name: str) -> None:
    write, said = VALID[name]
    if name == LOW_PORTS:
        demand_root("to listen on a port below 1024")
    bench.write(**write)
    tested = bench.tested()
    assert tested.ok, tested.messages
    assert {one.rule for one in bench.findings() if one.level is not Level.OK} - ELSEWHERE == said


BROKEN = {
    "empty": "",
    "two http": "events {} http {} http { include {state}/current/http.conf; }",
    "an include of itself": "events {} include {conf}; http {}",
    "an include without a file": "events {} include; http { include; server { include; } }",
    "directives without arguments": "events; user; pid; error_log; working_directory; http { map; geo; split_clients;"
    " set; upstream; server { listen; location; proxy_pass; grpc_pass; access_log; proxy_cache; proxy_cache_key;"
    " proxy_set_header; proxy_http_version; set_real_ip_from; } }",
    "blocks that want none": "pid {} user { a b; } http { proxy_pass http://$gray_x { } listen { } upstream { s; } }",
    "passes outside": "proxy_pass http://$gray_a/; http { proxy_pass http://$gray_b/; grpc_pass $gray_c:1; }",
    "names of nothing": "http { server { location / { proxy_pass http://$gray_; proxy_pass $gray_a$gray_b:1/$c; } } }",
    "sizes that are none": "events { worker_connections many; } worker_rlimit_nofile x; http {"
    " variables_hash_bucket_size huge; }",
    "urls that are none": "http { server { location / { proxy_pass http://[::1; proxy_pass ://x; grpc_pass :; } } }",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_configuration_that_nginx_refuses_is_judged_all_the_same(bench: Bench, name: str) -> None:
    text = BROKEN[name].replace("{state}", str(bench.nginx.state_dir)).replace("{conf}", str(bench.nginx.conf))
    bench.nginx.conf.write_text(text)
    assert bench.found("nginx-refuses")


def test_in_stream_the_variable_alone_is_right(bench: Bench) -> None:
    server = "server {\nlisten 127.0.0.1:{web};\nproxy_pass $gray_shop;\n}"
    stream = f"stream {{\ninclude {{state}}/current/stream.conf;\n{server}\n}}"
    bench.write(main=f"worker_shutdown_timeout 5m;\n{stream}")
    assert {one.rule for one in bench.findings() if one.about == "routes"} == set()


def test_an_included_file_that_cannot_be_understood_is_said_and_costs_nothing_else(bench: Bench) -> None:
    bench.write(http="include more/*.conf;", location=PASS, files={"more/a.conf": "server { listen 81;"})
    (found,) = bench.found("include-unread")
    assert "a.conf" in found.what
    assert bench.found("snippet-missing")


NAMES = """
include proxy_pass grpc_pass proxy_set_header grpc_set_header proxy_http_version access_log proxy_cache map
proxy_cache_key server location if http events stream upstream set listen error_log pid user keepalive types
worker_connections worker_rlimit_nofile worker_shutdown_timeout master_process working_directory geo
variables_hash_bucket_size set_real_ip_from split_clients limit_except
"""
ARGUMENTS = """
/ ~ = off on http://$gray_shop http://$gray_shop/x ${gray_shop} grpc://$gray_y:1 $gray_ $gray_shop unix:/s 0
64k 127.0.0.1:8409 [::1]:8410 8408 *:1 Host Connection close 1.0 1.1 http://[ a.b:1 https://h.example/x ''
/var/lib/grayctl/current/http.conf /var/lib/grayctl/current/*.conf /var/lib/grayctl/snippets/shop.conf
x/*.conf ./nginx.conf a_b syslog:server=a stderr /dev/null $x$y
"""
NOT_OPTIMAL = (
    "could not build optimal variables_hash, you should increase either variables_hash_max_size: 1 or "
    "variables_hash_bucket_size: 64; ignoring variables_hash_bucket_size"
)


@st.composite
def directives(draw: st.DrawFn, depth: int = 0) -> str:
    """Any words of nginx's, nested anyhow."""
    lines = []
    for _ in range(draw(st.integers(0, 4))):
        line = " ".join(
            [draw(st.sampled_from(NAMES.split())), *draw(st.lists(st.sampled_from(ARGUMENTS.split()), max_size=3))]
        )
        if depth < 3 and draw(st.booleans()):
            lines.append(f"{line} {{\n{draw(directives(depth + 1))}\n}}")
        else:
            lines.append(f"{line};")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=directives())
def test_no_rule_falls_over_on_any_nesting_of_any_words(place: Path, text: str) -> None:
    conf = place / "nginx.conf"
    conf.write_text(f"{text}\nhttp {{\n{text}\n}}\n")
    own = parse('[services.shop]\nbalance = "hash $http_x"\n[watch]\nservices = ["shop"]', "t")
    view = View(
        read(conf, Path("/var/lib/grayctl"), snippets=True),
        own,
        published=frozenset({"shop"}),
        warnings=(NOT_OPTIMAL,),
        addresses={"a.b": ("10.0.0.1",), "h.example": ("::1",)},
        missing=frozenset({"/"}),
        odd_files=frozenset({"/dev/null"}),
        decisions=(Decision(what="x", by_address=True),),
    )
    for found in [one for judge in CONFIGURATION for one in judge(view)]:
        assert found.rule
        assert found.why
        assert found.advice
        assert found.how
