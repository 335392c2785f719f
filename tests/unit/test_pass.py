"""Where the one line of a location passes to: a literal name only where the object itself says that nothing decides."""

from pathlib import Path

import pytest

from grayctl.model.generation import Object
from grayctl.model.plan import Plan, ServicePlan
from grayctl.policy.resolve import stub
from grayctl.render.fileset import Dialect, Renderer
from grayctl.render.templates import Templates
from grayctl.settings import Settings
from tests.releases.site import Instance, plan_of

UPSTREAM = "upstream shop.gray { server 127.0.0.1:80; }\n"
CONSTANT = 'split_clients "" $gray_shop { * shop.gray; }\n'
BOTH = [Instance(80, "v1"), Instance(81, "v2")]


def made(plan: ServicePlan, templates: Templates | None = None) -> Object:
    objects, failed = Renderer(templates or Templates(), Settings(), Dialect()).objects(Plan({plan.service: plan}, {}))
    assert not failed
    return objects[plan.service]


def passed(one: Object) -> str:
    """The pass directive, behind the snippet's whole text."""
    assert one.passing.startswith(one.snippet)
    (line,) = one.passing.removeprefix(one.snippet).split("\n")[1:-1]
    return line


def policy(text: str) -> ServicePlan:
    return plan_of(f"service: shop\nstable: v1\n{text}", BOTH)


@pytest.mark.parametrize(
    ("plan", "line"),
    [
        pytest.param(stub("shop", Settings()), "proxy_pass http://shop.gray;", id="nothing is known yet"),
        pytest.param(stub("Shop.API-2", Settings()), "proxy_pass http://shop.api-2.gray;", id="an odd name"),
        pytest.param(policy(""), "proxy_pass http://shop.v1.gray;", id="a release that decides nothing"),
        pytest.param(policy("traffic: {v2: 100}"), "proxy_pass http://shop.v2.gray;", id="all of them moved"),
        pytest.param(policy("traffic: {v2: 10}"), "proxy_pass http://$gray_shop;", id="a canary"),
        pytest.param(
            policy("routes: [{name: testers, match: {header: {X-Version: v2}}, to: v2}]"),
            "proxy_pass http://$gray_shop;",
            id="a route",
        ),
        pytest.param(policy("protocol: grpc"), "grpc_pass grpc://shop.v1.gray;", id="grpc"),
        pytest.param(policy("protocol: grpc\ntraffic: {v2: 1}"), "grpc_pass grpc://$gray_shop;", id="a grpc canary"),
        pytest.param(policy("protocol: tcp"), "proxy_pass shop.v1.gray;", id="tcp"),
        pytest.param(policy("protocol: tcp\ntraffic: {v2: 1}"), "proxy_pass $gray_shop;", id="a tcp canary"),
        pytest.param(
            plan_of("service: shop\nstable: v1\nwhen_empty: reject\n", []),
            "proxy_pass http://$gray_shop;",
            id="refused: the variable has an address, and no upstream stands behind it",
        ),
    ],
)
def test_the_name_is_literal_where_nothing_decides(plan: ServicePlan, line: str) -> None:
    assert passed(made(plan)) == line


@pytest.mark.parametrize(
    "body",
    [
        "",
        CONSTANT,
        UPSTREAM + 'map "" $gray_shop { default shop.gray; }\n',
        UPSTREAM + CONSTANT + "map $http_x_beta $gray_shop { 1 other.gray; default shop.gray; }\n",
        UPSTREAM + CONSTANT + "map $http_x_beta ${GRAY_shop} { 1 other.gray; default shop.gray; }\n",
        UPSTREAM + f"# {CONSTANT}",
        UPSTREAM + CONSTANT.replace("shop.gray", "127.0.0.1:80"),
        UPSTREAM + CONSTANT.replace("shop.gray", "$other"),
        UPSTREAM + CONSTANT.replace('""', '"$request_id"'),
        UPSTREAM + CONSTANT.replace("$gray_shop", "$gray_stock"),
        f"# {UPSTREAM}{CONSTANT}",
        "upstream shop.gray.old { server 127.0.0.1:80; }\n" + CONSTANT,
        UPSTREAM + CONSTANT.replace("shop.gray", f"{'x' * 300}.gray"),
    ],
)
def test_what_a_template_of_ones_own_decides_is_not_passed_by(body: str, tmp_path: Path) -> None:
    (tmp_path / "service.conf.j2").write_text(body, encoding="utf-8")
    assert passed(made(stub("shop", Settings()), Templates(str(tmp_path)))) == "proxy_pass http://$gray_shop;"


def test_a_template_of_ones_own_that_names_its_upstream_is_followed(tmp_path: Path) -> None:
    (tmp_path / "service.conf.j2").write_text(
        'upstream mine { server 127.0.0.1:80; }\nsplit_clients "" {{ variable }} { * mine; }\n', encoding="utf-8"
    )
    assert passed(made(stub("shop", Settings()), Templates(str(tmp_path)))) == "proxy_pass http://mine;"


def test_the_pass_is_part_of_the_digest_and_its_template_can_be_ones_own(tmp_path: Path) -> None:
    plan, shipped = stub("shop", Settings()), Renderer(Templates(), Settings(), Dialect())
    (tmp_path / "pass.conf.j2").write_text("{{ snippet }}proxy_pass https://{{ target }};\n", encoding="utf-8")
    own = Renderer(Templates(str(tmp_path)), Settings(), Dialect())
    one, other = (renderer.objects(Plan({"shop": plan}, {}))[0] for renderer in (shipped, own))
    assert other["shop"].passing.endswith(";\nproxy_pass https://shop.gray;\n")
    assert shipped.file_set(one).digest != own.file_set(other).digest
