"""explain, a real nginx, and an oracle that reads the policy itself agree on version and route, request by request.

GRAYCTL_DIFFERENTIAL sets the number of requests (10,000 unless told); a failure prints the seed that plays it again.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grayctl.model.plan import ServicePlan
from grayctl.model.release import Live, Release
from grayctl.policy.document import read_release
from grayctl.policy.explain import Explainer
from grayctl.policy.live import follow
from grayctl.policy.request import JOINS_REPEATED_HEADERS, Request
from tests.releases import invent
from tests.releases.clients import Connection
from tests.releases.oracle import Sent, World, decide
from tests.releases.site import Instance, plan_in_force, served
from tests.support.nginx import VERSION
from tests.support.ports import free_ports

REQUESTS = int(os.environ.get("GRAYCTL_DIFFERENTIAL", "10000"))
SERVICES, EACH = 8, 400
PARTS = 5  # in one test it would be by far the longest of all, and everybody would wait for its worker


@dataclass
class Case:
    """One service: its policy in all its forms."""

    invented: invent.Invented
    release: Release
    world: World
    plan: ServicePlan
    explainer: Explainer


def _case(random: Random, service: str, port: int) -> Case:
    made = invent.policy(random, service)
    text = json.dumps(made.policy, ensure_ascii=False).replace("{port}", str(port))
    made.policy = json.loads(text)
    written = yaml.safe_dump(made.policy, allow_unicode=True, sort_keys=False) if random.random() < 0.5 else text
    release = read_release(written, service, service=service)
    salt = f"salt{random.randrange(10**6)}"
    live: Live | None = None
    for _ in range(random.choice([0, 2])):  # shares have a history: slots that were given back, or taken over
        shares = tuple(sorted((version, random.choice([0, 500, 2500])) for version, _ in release.shares))
        earlier = msgspec.structs.replace(release, shares=shares)
        live = follow(earlier, "", live, lambda: salt)
    live = follow(release, "", live, lambda: salt)
    versions = release.versions
    available = frozenset(
        version for version in versions if random.random() < (0.97 if version == versions[0] else 0.85)
    )
    instances = [Instance(80, version, host=f"127.0.1.{n}") for n, version in enumerate(sorted(available), 1)]
    plan = plan_in_force(release, live, instances, {name: tuple(found) for name, found in invent.LISTS.items()})
    world = World(
        available,
        live.salt,
        [(slot.owner, slot.width, slot.held) for slot in live.ring],
        {name: [(slot.owner, slot.width, slot.held) for slot in ring] for name, ring in live.route_rings},
        invent.LISTS,
        joins_headers=VERSION >= JOINS_REPEATED_HEADERS,
    )
    return Case(made, release, world, plan, Explainer(service, service, plan.tables))


def _http(cases: Mapping[str, Case], ports: list[int]) -> str:
    """One answer tells what was decided for every service."""
    body = "".join(f"$gray_{name}|$grayver_{name}|$grayroute_{name}\\n" for name in cases)
    return f"""
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Test-Address;
    map $http_x_test_country $geoip2_data_country_code {{ default $http_x_test_country; }}
    server {{
        {"".join(f"listen 127.0.0.1:{port};" for port in ports)}
        location / {{ return 200 "$request_id\n{body}"; }}
    }}
"""


def _request(sent: Sent) -> Request:
    raw = invent.written(sent)
    first, *lines = raw.split(b"\r\n")
    headers = tuple((name, value.lstrip(b" ")) for name, _, value in (line.partition(b":") for line in lines if line))
    return Request(
        target=first.split(b" ")[1],
        method=first.split(b" ")[0],
        nginx=VERSION,
        headers=headers,
        address=sent.address,
        port=sent.port,
        variables={
            "geoip2_data_country_code": sent.country.encode("utf-8", "surrogateescape"),
            "request_id": sent.request_id.encode(),
        },
    )


@pytest.mark.parametrize("part", range(PARTS))
@settings(
    max_examples=max(1, REQUESTS // EACH // PARTS),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**48))
def test_explain_nginx_and_the_oracle_agree(tmp_path_factory: pytest.TempPathFactory, part: int, seed: int) -> None:
    del part
    random = Random(seed)
    folder = tmp_path_factory.mktemp("differential")
    ports = free_ports(2)
    cases = {f"s{n}": _case(random, f"s{n}", ports[0]) for n in range(SERVICES)}
    seen: Counter[str] = Counter()
    plans = [case.plan for case in cases.values()]
    with served(folder, plans, http=_http(cases, ports), ports=ports):
        connections = [Connection(port) for port in ports]
        try:
            for _ in range(EACH):
                which = random.randrange(2)
                sent = invent.request(random, ports[which])
                drawn, *answered = connections[which].ask(invent.written(sent)).splitlines()
                sent = replace(sent, request_id=drawn)
                request = _request(sent)
                for case, line in zip(cases.values(), answered, strict=True):
                    upstream, version, route = line.split("|")
                    told = case.explainer.explain(request)
                    meant = decide(case.invented.policy, sent, case.world, case.invented.trees)
                    context = (f"seed {seed}", case.invented.policy, sent, case.world)
                    label = f"{told.route}!fallback" if told.fallback else told.route
                    assert (told.version, label, told.upstream) == (version, route, upstream), context
                    assert (version, route) == meant, context
                    seen[route] += 1
        finally:
            for connection in connections:
                connection.close()
    assert len(seen) > 1
