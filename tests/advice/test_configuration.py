"""Rules on the user's nginx.conf: a real configuration shows each; the advised line ends it and passes `nginx -t`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from grayctl.advice.finding import How, Level
from grayctl.model.plan import Plan
from grayctl.nginx.generations import Store
from grayctl.render.fileset import Dialect, Renderer
from grayctl.render.templates import Templates
from tests.releases.site import TEMPLATES, Instance, plan_of
from tests.support.advised import INCLUDE, PASS, SNIPPET, Bench
from tests.support.nginx import LOAD_STREAM, write
from tests.support.rights import demand_root

HOME = f"{SNIPPET}\n{PASS}"
LINE = "include {state}/snippets/pass/shop.conf;"
HASHES = "\n".join(f"type/x{number} ext{number};" for number in range(300))
MANY = "\n".join(f'split_clients "" $service_{number} {{ * x; }}' for number in range(1000))
MAP = 'map $uri $gray_shop { default "x"; }'
LOG = "access_log {folder}/other.log;"
BY_GLOB = "include {state}/current/*.conf;"
WEB = "listen 127.0.0.1:{web};"
CACHE = "proxy_cache_path {folder}/cache keys_zone=z:1m;"
LOGS = "/var/log/nginx is root's"
LONG = "a" * 60  # needs a bucket of 128


@dataclass(frozen=True)
class Case:
    """Something wrong.

    Attributes:
        line: what stands on the line that the finding names; `{` for the line that opens http.
        write: as for `Bench.write`.
        settings: TOML text.
        roots: why only root's nginx takes what is advised; empty when anybody's does.
    """

    rule: str
    line: str
    write: Mapping[str, Any] = field(default_factory=dict)
    settings: str = ""
    roots: str = ""

    @property
    def id(self) -> str:
        return f"{self.rule}: {self.line[:40]}"


def located(rule: str, line: str, *, more: str = "", **write: Any) -> Case:
    """`line` stands in the location, with `more`."""
    return Case(rule, line, {"location": f"{more}\n{line}"} | write)


CASES = [
    # ---------------------------------------------------------------- the includes
    Case("include-missing", "http {", {"include": ""}),
    Case("include-missing", "http {", {"include": "", "location": "return 200;"}),
    *(
        [Case("stream-include-missing", "stream {", {"main": f"{LOAD_STREAM}\nstream {{\n}}"})]
        if LOAD_STREAM is not None
        else []
    ),
    Case("include-twice", INCLUDE, {"http": INCLUDE}),
    Case("include-twice", INCLUDE, {"http": "include {folder}/more/*.inc;", "files": {"more/a.inc": INCLUDE}}),
    Case("include-misplaced", INCLUDE, {"main": INCLUDE}),
    Case("include-misplaced", INCLUDE, {"server": INCLUDE}),
    Case("include-misplaced", "include {state}/current/stream.conf;", {"http": "include {state}/current/stream.conf;"}),
    Case("include-by-glob", "include {state}/current/http*.conf;", {"include": "include {state}/current/http*.conf;"}),
    # ---------------------------------------------------------------- the locations
    located("uri-in-proxy-pass", "proxy_pass http://$gray_shop/;", more=SNIPPET),
    located("uri-in-proxy-pass", "proxy_pass http://${gray_shop}/api/v1;", more=SNIPPET),
    located("uri-in-proxy-pass", "proxy_pass https://$gray_shop?a=b;", more=SNIPPET),
    located("uri-in-proxy-pass", "grpc_pass grpc://$gray_shop/x;", more="grpc_set_header Host $host;"),
    located("port-in-proxy-pass", "proxy_pass http://$gray_shop:8080;", more=SNIPPET),
    located("port-in-proxy-pass", "grpc_pass grpcs://$gray_shop:443;", more="grpc_set_header Host $host;"),
    located("scheme-missing", "proxy_pass $gray_shop;", more=SNIPPET),
    located("snippet-missing", PASS),
    located("snippet-missing", PASS, more="proxy_read_timeout 5s;"),
    located("host-header-missing", PASS, more="proxy_http_version 1.1;"),
    located("host-header-missing", PASS, more='proxy_http_version 1.1;\nproxy_set_header Connection "";'),
    # a header of the location's own cuts those of the server off
    located("host-header-missing", PASS, more="proxy_http_version 1.1;\nproxy_set_header X-A b;"),
    located("host-header-missing", PASS, server="proxy_set_header X-From outside;\nproxy_http_version 1.1;"),
    located("host-header-missing", "grpc_pass grpc://$gray_shop;"),
    located("host-header-missing", "grpc_pass $gray_shop;", more="grpc_set_header X-A b;"),
    located("keepalive-off", PASS, more="proxy_set_header Host $host;\nproxy_set_header Connection '';"),
    located("keepalive-off", PASS, more="proxy_http_version 1.1;\nproxy_set_header Host $host;"),
    Case(
        "keepalive-off",
        "proxy_http_version 1.0;",
        {"location": f'proxy_http_version 1.0;\nproxy_set_header Host $host;\nproxy_set_header Connection "";\n{PASS}'},
    ),
    Case(
        "keepalive-off",
        "proxy_set_header Connection close;",
        {
            "location": "proxy_http_version 1.1;\nproxy_set_header Host $host;\nproxy_set_header Connection close;\n"
            f"{PASS}"
        },
    ),
    Case(
        "keepalive-off",
        PASS,
        {
            "server": "proxy_http_version 1.1;\nproxy_set_header Host $host;\nproxy_set_header Connection close;",
            "location": PASS,
        },
    ),
    Case("access-log-hides", LOG, {"location": f"{LOG}\n{HOME}"}),
    Case("access-log-hides", LOG, {"server": LOG}),
    Case("access-log-hides", "access_log off;", {"location": f"access_log off;\n{HOME}"}),
    Case(
        "cache-mixes-versions",
        "proxy_cache_key $uri;",
        {"http": CACHE, "location": f"proxy_cache z;\nproxy_cache_key $uri;\n{HOME}"},
    ),
    Case(
        "cache-mixes-versions",
        PASS,
        {"http": f"{CACHE}\nproxy_cache z;\nproxy_cache_key $scheme$host$request_uri;"},
    ),
    # ---------------------------------------------------------------- the variables
    located("service-unpublished", "proxy_pass http://$gray_stock;", more=SNIPPET),
    Case("service-unpublished", "add_header X-To $gray_stock;", {"server": "add_header X-To $gray_stock;"}),
    Case("variable-redefined", MAP, {"http": MAP}),
    Case("variable-redefined", "set $gray_shop x;", {"server": "set $gray_shop x;"}),
    Case("name-too-long", "http {", settings=f'[watch]\nservices = ["{LONG}"]'),
    Case(
        "name-too-long",
        "variables_hash_bucket_size 64;",
        {"http": "variables_hash_bucket_size 64;"},
        settings=f'[watch]\nservices = ["{LONG}"]',
    ),
    Case("hash-too-small", "http {", {"http": MANY}),
    Case(
        "hash-too-small",
        "types_hash_bucket_size 64;",
        {"http": f"types_hash_max_size 64;\ntypes_hash_bucket_size 64;\ntypes {{\n{HASHES}\n}}"},
    ),
    Case(
        "hash-too-small",
        "http {",
        {"http": f"server {{\nlisten 127.0.0.1:{{web}};\nserver_name {LONG}.example.com;\n}}"},
    ),
    # ---------------------------------------------------------------- how it runs
    Case("worker-shutdown-timeout", "", {"main": ""}),
    Case("master-process-off", "master_process off;", {"main": "worker_shutdown_timeout 5m;\nmaster_process off;"}),
    Case("working-directory-missing", "working_directory {folder}/w;", {"main": "working_directory {folder}/w;"}),
    Case("error-log-no-file", "error_log stderr;", {"error_log": "error_log stderr;"}, roots=LOGS),
    Case(
        "error-log-no-file",
        "error_log syslog:server=127.0.0.1 warn;",
        {"error_log": "error_log syslog:server=127.0.0.1 warn;"},
        roots=LOGS,
    ),
    Case("pid-file-unusable", "pid /dev/null;", {"pid": "pid /dev/null;"}, roots="/run is root's"),
    Case("worker-files-low", "worker_rlimit_nofile 100;", {"main": "worker_rlimit_nofile 100;"}),
    Case("worker-connections-low", "worker_connections 20;", {"events": "worker_connections 20;"}),
    Case("worker-connections-low", "events {", settings="[services.shop]\nkeepalive = 512"),
    # ---------------------------------------------------------------- names and decisions
    Case(
        "host-name-in-config",
        "server 127.1:81;",  # a name to nginx, which the system resolves without a network
        {"http": "upstream u {\nserver 127.1:81;\n}"},
    ),
    Case("host-name-in-config", "http {", {"location": "proxy_pass http://127.1;"}),
    Case("host-name-in-config", "http {", {"location": "proxy_pass https://127.1/a/b;"}),
    Case(
        "client-decides",
        'balance = "hash $http_x_user"',
        settings='[services.shop]\nbalance = "hash $http_x_user"',
    ),
    Case(
        "client-decides",
        'balance = "hash $cookie_uid$arg_u"',
        settings='[services.shop]\nbalance = "hash $cookie_uid$arg_u"',
    ),
    Case("client-ip-without-realip", "http {", settings='[services.shop]\nbalance = "ip_hash"'),
    Case("client-ip-without-realip", "http {", settings='[services.shop]\nbalance = "hash $remote_addr"'),
]


def _line_of(where: str) -> str:
    file, _, number = where.rpartition(":")
    if not number.isdigit():
        return ""
    with open(file, encoding="utf-8") as text:  # noqa: PTH123 -- a text
        return text.read().splitlines()[int(number) - 1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_advised_line_ends_the_finding_and_nginx_takes_it(bench: Bench, case: Case) -> None:
    if case.roots:
        demand_root(case.roots)
    assert bench.found(case.rule) == []
    bench.configure(case.settings)
    bench.write(**case.write)

    found = bench.found(case.rule)
    assert found, "it is seen"
    first = found[0]
    assert _line_of(first.where) == bench.fill(case.line), first
    assert first.why
    assert first.level in {Level.WARNING, Level.FAILURE}

    for _ in found:
        if left := bench.found(case.rule):
            bench.follow(left[0])
    assert bench.found(case.rule) == []
    tested = bench.tested()
    assert tested.ok, tested.messages


# What runs, what is reached and what a machine allows is not the configuration's affair; the bench has neither of the
# first two, and a container without CAP_SYS_ADMIN not the third.
ELSEWHERE = {"nginx-not-running", "consul-unreachable", "no-mount-namespace"}
CLEAN: dict[str, Mapping[str, Any]] = {
    "as the README says": {},
    "http/1.1 and headers by hand": {
        "location": f'proxy_http_version 1.1;\nproxy_set_header Host $host;\nproxy_set_header Connection "";\n{PASS}'
    },
    "all in one line": {"location": LINE},
    "one line, spelled from nginx.conf's folder": {"location": "include state/../state/snippets/pass/shop.conf;"},
    "one line in a named location": {"location": "try_files /none @shop;", "server": f"location @shop {{\n{LINE}\n}}"},
    "one line beside the two": {"location": LINE, "server": f"location /own {{\n{HOME}\n}}"},
    "one line, and headers of one's own": {"location": f'{LINE}\nproxy_set_header X-Mine "1";\nproxy_read_timeout 5s;'},
    "headers from the server": {"server": SNIPPET, "location": PASS},
    "a websocket": {
        "location": "proxy_http_version 1.1;\nproxy_set_header Host $host;\n"
        f"proxy_set_header Connection $gray_connection;\n{PASS}"
    },
    "a uri made of variables": {"location": f"{SNIPPET}\nproxy_pass http://$gray_shop$request_uri;"},
    "braces around the variable": {"location": f"{SNIPPET}\nproxy_pass http://${{gray_shop}};"},
    "grpc": {"location": "grpc_set_header Host $host;\ngrpc_pass grpc://$gray_shop;"},
    "grpc without a scheme": {"location": "grpc_set_header Host $host;\ngrpc_pass $gray_shop;"},
    "the pass in an if": {"location": f"{SNIPPET}\nif ($request_method = GET) {{\n{PASS}\n}}\nreturn 405;"},
    "a log beside ours": {"server": "access_log {folder}/access.log;\naccess_log {folder}/more.log;"},
    "a log of a location that is not ours": {"server": "location /static {\naccess_log off;\n}"},
    "a cache with nginx's own key": {"http": f"{CACHE}\nproxy_cache z;"},
    "a cache key with the upstream": {"http": f"{CACHE}\nproxy_cache z;\nproxy_cache_key $gray_shop$request_uri;"},
    "a cache that is off": {"http": f"{CACHE}\nproxy_cache z;\nproxy_cache_key $uri;", "server": "proxy_cache off;"},
    "the include in a file of its own": {"include": "include {folder}/more/*.inc;", "files": {"more/a.inc": INCLUDE}},
    "everything in another file": {
        "include": "include more/all.inc;",
        "files": {"more/all.inc": f"{INCLUDE}\nserver {{\nlisten 127.0.0.1:{{web}};\nlocation / {{\n{HOME}\n}}\n}}"},
        "location": "return 200;",
    },
    "the marker's port on every address": {"server": "listen *:{marker} bind;"},
    "a variable that only looks like ours": {"http": 'map $uri $grayish { default "x"; }', "server": "set $gray 1;"},
    "a variable of the user's own": {"http": 'map $uri $gray_mine { default "x"; }', "server": "set $x $gray_mine;"},
    "an error log that is a file, and syslog": {
        "error_log": "error_log {folder}/error.log;\nerror_log syslog:server=127.0.0.1;"
    },
    "host names that are upstreams or local": {
        "http": "upstream u {\nserver 127.0.0.1:81;\nserver [::1]:82;\n}\nupstream v {\nserver unix:/x.sock;\n}",
        "server": "location /u {\nproxy_pass http://u;\n}\nlocation /l {\nproxy_pass http://localhost:81;\n}",
    },
}


@pytest.mark.parametrize("name", CLEAN)
def test_what_is_right_is_left_alone(bench: Bench, name: str) -> None:
    bench.write(**CLEAN[name])
    tested = bench.tested()
    assert tested.ok, tested.messages
    assert [one for one in bench.findings() if one.level is not Level.OK and one.rule not in ELSEWHERE] == []


def test_an_address_that_decides_is_believed_behind_realip(bench: Bench) -> None:
    bench.configure('[services.shop]\nbalance = "ip_hash"')
    bench.write(http="set_real_ip_from 10.0.0.0/8;")
    assert bench.found("client-ip-without-realip") == []


@pytest.mark.parametrize(
    ("listen", "key"),
    [
        ("127.0.0.1:{marker}", "nginx.marker"),
        ("localhost:{marker}", "nginx.marker"),
        ("127.0.0.1:{refuse}", "nginx.refuse"),
        ("127.0.0.1:{metrics}", "metrics.listen"),
        ("{metrics}", "metrics.listen"),
        ("*:{metrics}", "metrics.listen"),
    ],
)
def test_a_server_on_a_port_of_ours_is_named(bench: Bench, listen: str, key: str) -> None:
    bench.write(server=f"listen {listen};")
    (found,) = bench.found("listen-clash")
    assert found.what == bench.fill(f"listen {listen}; takes a port of {key}")
    assert found.how is How.DO
    bench.write()
    assert bench.found("listen-clash") == []


def test_a_socket_that_a_killed_nginx_leaves_is_removed_by_its_unit(bench: Bench, tmp_path: Path) -> None:
    bench.write(server="listen unix:{folder}/web.sock;")
    bench.root = tmp_path / "root"
    drop_in = bench.root / "etc/systemd/system/nginx.service.d/socket.conf"
    drop_in.parent.mkdir(parents=True)
    (bench.root / "proc").symlink_to("/proc")
    (found,) = bench.found("unix-listener")
    assert found.how is How.UNIT
    drop_in.write_text(f"[Service]\n{found.advice}\n")
    assert bench.found("unix-listener") == []
    assert bench.tested().ok


def test_a_name_that_fits_no_hash_has_no_line(bench: Bench) -> None:
    bench.configure(f'[watch]\nservices = ["{"a" * 124}"]')
    (found,) = bench.found("name-too-long")
    assert (found.how, found.advice) == (How.DO, "rename the service")


def test_a_host_name_that_does_not_resolve_is_told_apart(bench: Bench) -> None:
    bench.write(http="upstream u {\nserver nowhere.invalid:80;\n}")
    (found,) = bench.found("host-name-in-config")
    assert "does not resolve now" in found.what
    assert found.how is How.DO


def test_a_misspelt_service_gets_a_hint(bench: Bench) -> None:
    bench.write(location=f"{SNIPPET}\nproxy_pass http://$gray_shpo;")
    (found,) = bench.found("service-unpublished")
    assert "did you mean $gray_shop?" in found.what


@pytest.mark.parametrize(
    "location",
    [
        "include {state}/snippets/stock.conf;\nproxy_pass http://$gray_stock;",
        "include {state}/snippets/pass/stock.conf;",
    ],
    ids=["two lines", "one line"],
)
def test_a_snippet_that_is_not_there_yet_is_no_missing_header(bench: Bench, location: str) -> None:
    """The snippet comes with its service; until then the service is what is missing."""
    bench.write(location=location)
    rules = {one.rule for one in bench.findings() if one.level is not Level.OK} - ELSEWHERE
    assert rules == {"service-unpublished", "nginx-refuses"}
    bench.follow(bench.found("service-unpublished")[0])
    assert bench.tested().ok
    assert {one.rule for one in bench.findings() if one.level is not Level.OK} <= ELSEWHERE


def test_the_one_line_is_a_way_into_its_service(bench: Bench) -> None:
    """Its log, its cache and its connections are judged as those of any other, and advice goes into the user's file."""
    bench.write(location=f"{LINE}\naccess_log off;", events="worker_connections 32;")
    (hidden,) = bench.found("access-log-hides")
    assert "from $gray_shop" in hidden.what
    assert bench.found("worker-connections-low")


def test_what_the_one_line_lacks_goes_into_the_location(bench: Bench) -> None:
    templates = bench.folder / "templates"
    templates.mkdir()
    (templates / "snippet.conf.j2").write_text("proxy_http_version 1.1;\n", encoding="utf-8")
    _serve(bench, "", Templates(str(templates)))
    bench.write(location=LINE)
    (found,) = bench.found("host-header-missing")
    assert (found.how, _line_of(found.where)) == (How.INSIDE, "location / {")
    assert found.where.startswith(f"{bench.nginx.conf}:")
    bench.follow(found)
    assert bench.found("host-header-missing") == []
    assert bench.tested().ok


def test_patterns_are_searched_by_machine_code(bench: Bench) -> None:
    _serve(bench, "traffic: {v2: 10}")
    assert bench.found("pcre-jit-off") == [], "there are none"
    _serve(bench, "routes: [{name: testers, match: {header: {X-Version: v2}}, to: v2}]")
    (found,) = bench.found("pcre-jit-off")
    assert (found.level, found.how, found.where) == (Level.WARNING, How.APPEND, str(bench.nginx.conf))
    assert found.what == "pcre_jit is off, and there are patterns in the policies of shop"
    bench.follow(found)
    assert bench.found("pcre-jit-off") == []
    assert bench.tested().ok

    bench.write(main="worker_shutdown_timeout 5m;\npcre_jit off;")
    (found,) = bench.found("pcre-jit-off")
    assert (found.how, _line_of(found.where)) == (How.REPLACE, "pcre_jit off;")
    bench.follow(found)
    assert bench.found("pcre-jit-off") == []
    assert bench.tested().ok


def _serve(bench: Bench, policy: str, templates: Templates = TEMPLATES) -> None:
    """A generation with a policy for shop stands."""
    plan = plan_of(f"service: shop\nstable: v1\n{policy}", [Instance(80, "v1"), Instance(81, "v2")])
    renderer = Renderer(templates, bench.settings, Dialect())
    objects, failed = renderer.objects(Plan({plan.service: plan}, {}))
    assert not failed
    with Store(bench.nginx.state_dir).opened() as store:
        store.flip(write(store, renderer.file_set(objects)).number)
