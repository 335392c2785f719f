"""Plans in a real nginx that tells what it decides, and what explain tells of the same requests."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from grayctl.model.plan import Plan, ServicePlan
from grayctl.policy.explain import explain
from grayctl.policy.request import Request
from grayctl.render.fileset import Dialect, Renderer
from tests.releases.clients import Connection
from tests.releases.site import SETTINGS, TEMPLATES, served
from tests.support.ports import free_ports


def object_of(plan: ServicePlan) -> str:
    """What nginx reads of a plan."""
    objects, failed = Renderer(TEMPLATES, SETTINGS, Dialect()).objects(Plan({plan.service: plan}, {}))
    assert not failed
    return objects[plan.service].content


@contextmanager
def answering(folder: Path, plans: Iterable[ServicePlan]) -> Iterator[Connection]:
    """A real nginx that answers a line for each plan: version and route."""
    plans, (port,) = tuple(plans), free_ports(1)
    body = "".join(f"$grayver_{one.id} $grayroute_{one.id}\\n" for one in plans)
    listen = f'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{body}"; }} }}'
    with served(folder, plans, http=listen, ports=[port]), closing(Connection(port)) as connection:
        yield connection


def asked(connection: Connection, headers: Mapping[str, str]) -> list[str]:
    """What it answers to a request, line by line."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return connection.ask("\r\n".join(["GET / HTTP/1.1", "Host: x", *lines, "", ""]).encode()).splitlines()


def told(plan: ServicePlan, headers: Mapping[str, str]) -> str:
    """What explain says of the same request, as one of those lines."""
    request = Request(headers=tuple((name.encode(), value.encode()) for name, value in headers.items()))
    found = explain(plan.service, plan.id, plan.tables, request)
    return f"{found.version} {found.route}"
