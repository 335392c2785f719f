"""A real nginx over the objects of some plans, and plans from policies without Consul."""

import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grayctl.model.catalog import Registration
from grayctl.model.plan import Plan, ServicePlan
from grayctl.model.release import InForce, Live, Release
from grayctl.policy.admission import admit
from grayctl.policy.document import read_release
from grayctl.policy.live import follow, revision_of
from grayctl.policy.released import resolve_release
from grayctl.render.fileset import Dialect, Renderer
from grayctl.render.templates import Templates
from grayctl.settings import Settings
from tests.support.nginx import BINARY, LOAD_STREAM
from tests.support.process import start, stop, wait_until

if TYPE_CHECKING:
    import subprocess

TEMPLATES = Templates()
SETTINGS = Settings()
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True)
class Instance:
    """An instance that is registered: where, and as what."""

    port: int
    version: str
    weight: int = 1
    host: str = "127.0.0.1"


def plan_of(
    policy: str,
    instances: Iterable[Instance],
    lists: Mapping[str, tuple[str, ...]] | None = None,
    *,
    live: Live | None = None,
    settings: Settings = SETTINGS,
) -> ServicePlan:
    """The plan of a policy; without `live` as if it had just been applied, with the salt `salt`."""
    release = read_release(policy, "policy.yaml")
    live = live or follow(release, revision_of(policy.encode()), None, lambda: "salt")
    return plan_in_force(release, live, instances, lists, settings=settings)


def plan_in_force(
    release: Release,
    live: Live,
    instances: Iterable[Instance],
    lists: Mapping[str, tuple[str, ...]] | None = None,
    *,
    settings: Settings = SETTINGS,
) -> ServicePlan:
    """The plan of a release that is in force."""
    registered = [
        Registration(
            service=release.service,
            id=f"i{number}",
            address=one.host,
            port=one.port,
            meta=(("version", one.version), ("weight", str(one.weight))),
        )
        for number, one in enumerate(instances)
    ]
    admitted = admit(registered, {}, settings.watch)
    return resolve_release(admitted, None, settings, InForce(release, live), lists or {})


@contextmanager
def served(
    folder: Path,
    plans: Iterable[ServicePlan],
    *,
    main: str = "",
    http: str = "",
    stream: str = "",
    ports: Iterable[int],
) -> Iterator[None]:
    """Run nginx over these plans, with the user's own part of `main`, `http`, `stream`; it listens on `ports` then."""
    renderer = Renderer(TEMPLATES, SETTINGS, Dialect())
    objects, failed = renderer.objects(Plan({one.service: one for one in plans}, {}))
    assert not failed
    includes = {True: "", False: ""}
    entries = renderer.file_set(objects)
    names = re.findall(r"/([^/]+\.conf)\"", entries.http + entries.stream)
    place = {name: number for number, name in enumerate(names)}
    for one in sorted(objects.values(), key=lambda one: place[one.filename]):  # as in http.conf
        (folder / f"{one.slug}.conf").write_bytes(one.content.encode("utf-8", "surrogateescape"))
        (folder / f"{one.slug}.snippet").write_text(one.snippet, encoding="utf-8")
        (folder / f"{one.slug}.pass").write_text(one.passing, encoding="utf-8")
        includes[one.is_stream] += f"include {folder}/{one.slug}.conf;\n"
    shared = "".join(re.findall(r"^(?:upstream|split_clients) .*?^}\n", entries.http, re.MULTILINE | re.DOTALL))
    module = LOAD_STREAM if stream and LOAD_STREAM else ""
    (folder / "nginx.conf").write_text(
        f"""{module}
{main}
user root;
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    keepalive_requests 100000;
    {"".join(f"{kind}_temp_path {folder}/{kind};" for kind in _TEMPORARY)}
    {shared}
    {includes[False]}
    {http}
}}
{f"stream {{ {includes[True]} {stream} }}" if stream else ""}
""",
        encoding="utf-8",
    )
    process = start([BINARY, "-c", folder / "nginx.conf", "-p", folder], log=folder / "out")
    try:
        wait_until(lambda: all(_listens(port, process, folder) for port in ports), "nginx listens")
        yield
    finally:
        stop(process)


def _listens(port: int, process: "subprocess.Popen[bytes]", folder: Path) -> bool:
    assert process.poll() is None, (folder / "out").read_text() + (folder / "error.log").read_text()
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
