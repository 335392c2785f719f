"""Admission and resolve, as tables: PROMISES' rules for registrations, and what a service becomes."""

import re
from typing import Any

import msgspec
import pytest

from grayctl.model.balance import ROUND_ROBIN, Method
from grayctl.model.catalog import Catalog, Health, Registration
from grayctl.model.plan import FieldFault, Known, Server, Serving
from grayctl.model.release import Condition, InForce, Input, Live, Operator, Release, Route, Source, UpstreamOptions
from grayctl.model.tokens import Address, Word
from grayctl.policy.admission import admit
from grayctl.policy.resolve import Limits, resolve
from grayctl.policy.standing import Standing
from grayctl.policy.upstreams import parse_balance, upstream
from grayctl.settings import NginxSettings, ServiceSettings, Settings, WatchSettings

WATCH = WatchSettings()


def registration(**fields: Any) -> Registration:
    return msgspec.structs.replace(Registration(service="shop", id="a", address="10.0.0.1", port=80), **fields)


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({}, "10.0.0.1:80"),
        ({"address": "", "node_address": "10.9.9.9"}, "10.9.9.9:80"),
        ({"address": "10.0.0.2", "node_address": "10.9.9.9"}, "10.0.0.2:80"),
        ({"address": "2001:0DB8::0001"}, "[2001:db8::1]:80"),
        ({"address": "[2001:db8::1]"}, "[2001:db8::1]:80"),
        ({"port": 65535}, "10.0.0.1:65535"),
        ({"address": "db.example"}, "10.7.7.7:80"),
    ],
)
def test_an_address_is_an_address(fields: dict[str, Any], address: str) -> None:
    admitted = admit([registration(**fields)], {"db.example": ("10.7.7.7",)}, WATCH)
    assert [server.address.text for server in admitted.healthy] == [address]
    assert admitted.findings == ()


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"address": "unix:/tmp/x"}, FieldFault.ADDRESS),
        ({"address": "10.0.0.1:80"}, FieldFault.ADDRESS),
        ({"address": "10.0.0.256"}, FieldFault.ADDRESS),
        ({"address": "fe80::1%eth0"}, FieldFault.ADDRESS),
        ({"address": "a b"}, FieldFault.ADDRESS),
        ({"address": "unknown.example"}, FieldFault.ADDRESS),
        ({"address": "", "node_address": ""}, FieldFault.ADDRESS),
        ({"port": 0}, FieldFault.PORT),
        ({"port": -1}, FieldFault.PORT),
        ({"port": 65536}, FieldFault.PORT),
        ({"meta": (("version", "v 1"),)}, FieldFault.VERSION),
        ({"meta": (("version", "-v1"),)}, FieldFault.VERSION),
        ({"meta": (("version", "v" * 64),)}, FieldFault.VERSION),
        ({"meta": (("version", "v1;"),)}, FieldFault.VERSION),
    ],
)
def test_a_registration_that_fails_is_dropped_and_named_and_stops_nobody(
    fields: dict[str, Any], fault: FieldFault
) -> None:
    good = registration(id="good", address="10.0.0.9")
    admitted = admit([registration(**fields), good], {"unknown.example": ()}, WATCH)
    assert [server.instance for server in admitted.healthy] == ["good"]
    (finding,) = admitted.findings
    assert (finding.instance, finding.field, finding.dropped) == ("a", fault, True)
    assert finding.why


@pytest.mark.parametrize(
    ("fields", "weight", "noted"),
    [
        ({}, 1, False),
        ({"meta": (("weight", "20"),)}, 20, False),
        ({"tags": ("weight=30",)}, 30, False),
        ({"meta": (("weight", "20"),), "tags": ("weight=30",)}, 20, False),
        ({"weights": (7, 1)}, 7, False),
        ({"meta": (("weight", ""),), "weights": (7, 1)}, 7, False),
        ({"weights": (7, 3), "health": Health.WARNING}, 3, False),
        ({"weights": (65536, 1)}, 1, True),
        ({"tags": ("weight=abc",), "weights": (7, 1)}, 1, True),
        ({"meta": (("weight", " 5"),)}, 1, True),
        ({"meta": (("weight", "65535"),)}, 65535, False),
        ({"meta": (("weight", "65536"),)}, 1, True),
        ({"meta": (("weight", "abc"),)}, 1, True),
        ({"meta": (("weight", "-5"),)}, 1, True),
        ({"meta": (("weight", "1.5"),)}, 1, True),
        ({"meta": (("weight", "٣"),)}, 1, True),
        ({"weights": (-3, 1)}, 1, True),
    ],
)
def test_a_weight_that_cannot_be_read_counts_as_one(fields: dict[str, Any], weight: int, *, noted: bool) -> None:
    watch = msgspec.structs.replace(WATCH, include_warning=True)
    admitted = admit([registration(**fields)], {}, watch)
    assert [server.weight for server in admitted.healthy] == [weight]
    assert [(finding.field, finding.dropped) for finding in admitted.findings] == (
        [(FieldFault.WEIGHT, False)] if noted else []
    )


@pytest.mark.parametrize(
    ("tags", "meta", "version"),
    [
        ((), (), ""),
        ((), (("version", "v1"),), "v1"),
        (("version=v2",), (), "v2"),
        (("version=v2",), (("version", "v1"),), "v1"),
        (("version=v2",), (("version", ""),), "v2"),
        (("version=",), (), ""),
        (("v2", "version=1.10+b-1_x"), (), "1.10+b-1_x"),
    ],
)
def test_a_version_comes_from_the_first_source_that_is_not_empty(
    tags: tuple[str, ...], meta: tuple[tuple[str, str], ...], version: str
) -> None:
    (server,) = admit([registration(tags=tags, meta=meta)], {}, WATCH).healthy
    assert server.version == version


def test_who_is_healthy() -> None:
    rows = [registration(id=health, address=f"10.0.1.{number}", health=health) for number, health in enumerate(Health)]
    assert [server.instance for server in admit(rows, {}, WATCH).healthy] == ["passing"]
    with_warning = msgspec.structs.replace(WATCH, include_warning=True)
    assert {server.instance for server in admit(rows, {}, with_warning).healthy} == {"passing", "warning"}


def test_weight_zero_is_known_and_gets_nothing() -> None:
    admitted = admit([registration(meta=(("weight", "0"),))], {}, WATCH)
    assert (admitted.healthy, admitted.idle) == ((), 1)


def test_one_address_registered_twice_is_merged() -> None:
    """The newer registration's version, the higher weight."""
    old = registration(id="old", meta=(("version", "v1"), ("weight", "9")), created=1)
    new = registration(id="new", meta=(("version", "v2"), ("weight", "3")), created=2)
    for rows in ([old, new], [new, old]):
        (server,) = admit(rows, {}, WATCH).healthy
        assert (server.instance, server.version, server.weight) == ("new", "v2", 9)


def test_only_those_that_serve_are_merged() -> None:
    """A sick or refused registration of the same address lends neither its version nor its weight."""
    good = registration(id="good", meta=(("version", "v1"),), created=1)
    sick = registration(id="sick", meta=(("version", "v2"), ("weight", "9")), health=Health.CRITICAL, created=2)
    bad = registration(id="bad", meta=(("version", "v 3"), ("weight", "9")), created=3)
    (server,) = admit([good, sick, bad], {}, WATCH).healthy
    assert (server.instance, server.version, server.weight) == ("good", "v1", 1)


def test_of_equally_old_registrations_of_one_address_the_order_never_shows() -> None:
    rows = [registration(id=name, meta=(("version", name),)) for name in ("v1", "v2", "v3")]
    assert admit(rows, {}, WATCH) == admit(rows[::-1], {}, WATCH)


def test_sources_are_asked_in_the_order_of_the_settings() -> None:
    watch = msgspec.structs.replace(WATCH, version_from=("tag:rel=", "meta:build"), weight_from=("weights",))
    one = registration(tags=("rel=7",), meta=(("build", "8"), ("version", "9"), ("weight", "50")), weights=(4, 1))
    other = registration(address="10.0.0.2", meta=(("build", "8"),))
    assert [(one.version, one.weight) for one in admit([one, other], {}, watch).healthy] == [("7", 4), ("8", 1)]


@pytest.mark.parametrize(
    ("value", "backup"), [("true", True), ("1", True), ("YES", True), ("false", False), ("", False)]
)
def test_who_is_a_backup(value: str, *, backup: bool) -> None:
    (server,) = admit([registration(meta=(("backup", value),))], {}, WATCH).healthy
    assert server.backup is backup


def test_a_name_with_several_addresses_is_several_servers() -> None:
    admitted = admit([registration(address="db.example")], {"db.example": ("10.0.0.2", "10.0.0.1")}, WATCH)
    assert [server.address.host for server in admitted.healthy] == ["10.0.0.1", "10.0.0.2"]


# ---------------------------------------------------------------- resolve

LAST = Known("shop", (Server(Address("10.0.0.7", 80)),))


@pytest.mark.parametrize(
    ("health", "known", "when_empty", "serving", "hosts"),
    [
        (Health.PASSING, None, "keep_last", Serving.LIVE, ["10.0.0.1"]),
        (Health.PASSING, LAST, "reject", Serving.LIVE, ["10.0.0.1"]),
        (Health.CRITICAL, LAST, "keep_last", Serving.KEPT, ["10.0.0.7"]),
        (Health.CRITICAL, LAST, "reject", Serving.REFUSED, ["127.0.0.1"]),
        (Health.CRITICAL, None, "keep_last", Serving.REFUSED, ["127.0.0.1"]),
    ],
)
def test_what_an_empty_service_does(
    health: Health, known: Known | None, when_empty: str, serving: Serving, hosts: list[str]
) -> None:
    settings = Settings(services={"shop": ServiceSettings(when_empty=when_empty)})
    catalog = Catalog(services={"shop": (registration(health=health),)})
    plan = resolve(catalog, {"shop": known} if known else {}, settings, Limits()).services["shop"]
    assert plan.serving is serving
    assert [server.address.host for server in plan.upstreams[0].servers] == hosts
    assert plan.known == (plan.upstreams[0].servers if serving is Serving.LIVE else known.servers if known else ())


def test_a_published_name_stays_when_consul_forgets_it() -> None:
    plan = resolve(Catalog(), {"shop": LAST}, Settings(), Limits())
    assert plan.services["shop"].serving is Serving.KEPT


def test_of_two_names_with_one_id_the_published_one_stays() -> None:
    catalog = Catalog(services={"shop.api": (registration(),), "shop-api": (registration(),)})
    fresh = resolve(catalog, {}, Settings(), Limits())
    assert (set(fresh.services), set(fresh.refused)) == ({"shop-api"}, {"shop.api"})
    published = resolve(catalog, {"shop.api": Known("shop_api", ())}, Settings(), Limits())
    assert (set(published.services), set(published.refused)) == ({"shop.api"}, {"shop-api"})
    assert "belongs to 'shop.api'" in published.refused["shop-api"]


def test_of_many_new_names_with_one_id_the_first_by_name_is_taken() -> None:
    names = [f"shop{sign}api" for sign in "!#%&+,-.:;=@^~"]
    for order in (names, names[::-1]):
        plan = resolve(Catalog(services={name: (registration(),) for name in order}), {}, Settings(), Limits())
        assert set(plan.services) == {min(names)}


@pytest.mark.parametrize(("length", "bucket", "fits"), [(41, 64, True), (42, 64, False), (42, 128, True)])
def test_a_name_too_long_for_nginxs_hash_is_refused_with_the_line_to_write(
    length: int, bucket: int, *, fits: bool
) -> None:
    name = "s" * length
    plan = resolve(Catalog(services={name: (registration(),)}), {}, Settings(), Limits(bucket))
    assert (name in plan.services) is fits
    assert fits or "variables_hash_bucket_size 128;" in plan.refused[name]


@pytest.mark.parametrize("bucket", [64, 128, 256, 512, 4096])
@pytest.mark.parametrize("length", [41, 42, 105, 106, 123, 124, 233, 300, 1000])
def test_a_long_name_stops_nobody_and_its_advice_helps(length: int, bucket: int) -> None:
    name = "s" * length
    catalog = Catalog(services={name: (registration(),), "shop": (registration(),)})
    plan = resolve(catalog, {}, Settings(), Limits(bucket))
    assert "shop" in plan.services
    assert (name in plan.services) is not (name in plan.refused)
    advice = re.search(r"variables_hash_bucket_size (\d+);", plan.refused.get(name, ""))
    if advice:
        assert name in resolve(catalog, {}, Settings(), Limits(int(advice[1]))).services
    elif name in plan.refused:
        assert "123 are allowed; rename" in plan.refused[name]


def test_backups_never_stand_alone_nor_beside_a_method_that_knows_none() -> None:
    backup = registration(id="b", address="10.0.0.2", tags=("backup=true",))
    both = Catalog(services={"shop": (registration(), backup)})
    alone = Catalog(services={"shop": (backup,)})

    def servers(catalog: Catalog, balance: str) -> list[tuple[str, bool]]:
        settings = Settings(services={"shop": ServiceSettings(balance=balance)})
        plan = resolve(catalog, {}, settings, Limits()).services["shop"]
        return [(server.instance, server.backup) for server in plan.upstreams[0].servers]

    assert servers(both, "least_conn") == [("a", False), ("b", True)]
    assert servers(both, "ip_hash") == [("a", False)]
    assert servers(alone, "round_robin") == [("b", False)]


def test_several_versions_without_a_release_are_noticed() -> None:
    rows = tuple(
        registration(id=version, address=f"10.0.0.{version[1]}", meta=(("version", version),))
        for version in ("v1", "v2")
    )
    plan = resolve(Catalog(services={"shop": rows}), {}, Settings(), Limits()).services["shop"]
    assert plan.notices == ("serves several versions without a release: v1, v2",)


def test_an_equal_plan_is_the_same_object() -> None:
    """Renderers remember by identity."""
    catalog = Catalog(services={"shop": (registration(),)})
    first = resolve(catalog, {}, Settings(), Limits())
    again = resolve(catalog, {}, Settings(), Limits(), first)
    assert again.services["shop"] is first.services["shop"]


@pytest.mark.parametrize("count", [0, 1, 29, 30, 50, 87, 1000, 4000])
def test_a_zone_in_stream_is_a_power_of_two_that_holds_its_servers(count: int) -> None:
    servers = tuple(Server(Address(f"10.1.{n // 250}.{n % 250}", 80)) for n in range(count))
    made = upstream(Word("shop.gray"), servers, ROUND_ROBIN, UpstreamOptions(), NginxSettings(), tcp=True)
    size = int(made.zone.removesuffix("k"))
    assert size & (size - 1) == 0
    assert max(64, count) <= size


@pytest.mark.parametrize(("size", "own"), [("auto", ""), ("128k", "128k")])
def test_a_zone_in_http_is_shared_unless_its_size_is_given(size: str, own: str) -> None:
    settings = Settings(services={"shop": ServiceSettings(zone=size)})
    plan = resolve(Catalog(services={"shop": (registration(),)}), {}, settings, Limits())
    assert plan.services["shop"].upstreams[0].zone == own


def test_balance() -> None:
    assert parse_balance("hash $request_uri").method is Method.HASH
    with pytest.raises(ValueError, match="no nginx expression"):
        parse_balance("hash $a; }")


def test_a_release_that_cannot_be_written_holds_back_its_own_service_alone() -> None:
    """The validator lets nothing through that a token refuses; should it ever, the others move on."""
    hostile = Release(
        "shop", "v1", routes=(Route("r", Condition(Input(Source.PATH), Operator.REGEX, ("\0",)), to="v2"),)
    )
    standing = Standing({"shop": InForce(hostile, Live("", "", "v1"))}, {}, {}, ())
    rows = (Registration(service="shop", id="a", address="10.0.0.1", port=80, meta=(("version", "v1"),)),)
    v2 = Registration(service="shop", id="b", address="10.0.0.2", port=80, meta=(("version", "v2"),))
    catalog = Catalog(services={"shop": (*rows, v2), "other": rows})
    plan = resolve(catalog, {}, Settings(), Limits(), standing=standing)
    assert plan.services.keys() == {"other"}
    assert "cannot be written for nginx" in plan.refused["shop"]
