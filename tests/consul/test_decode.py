"""Decoding is pure, sorted, and deaf to noise."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grayctl.consul import decode
from grayctl.model.catalog import Health, Registration


def instance(**service: Any) -> dict[str, Any]:
    body = {"ID": "a-1", "Service": "a", "Address": "10.0.0.1", "Port": 80} | service
    return {"Node": {"Node": "n", "Address": "10.9.9.9"}, "Service": body, "Checks": []}


def check(status: str, check_id: str = "c", **more: Any) -> dict[str, Any]:
    return {"Node": "n", "CheckID": check_id, "Status": status, "ServiceName": "a"} | more


def decoded(*instances: dict[str, Any]) -> tuple[Registration, ...]:
    return decode.health(json.dumps(instances).encode())


def test_reads_every_field() -> None:
    (one,) = decoded(
        instance(Tags=["b", "a"], Meta={"z": "1", "a": "2"}, Weights={"Passing": 7, "Warning": 2}, CreateIndex=9)
    )
    assert one == Registration(
        service="a",
        id="a-1",
        node="n",
        node_address="10.9.9.9",
        address="10.0.0.1",
        port=80,
        tags=("b", "a"),
        meta=(("a", "2"), ("z", "1")),
        weights=(7, 2),
        created=9,
    )


def test_null_is_empty_and_old_versions_have_no_weights() -> None:
    (one,) = decode.health(
        b'[{"Node":{"Node":"n","Address":null},"Service":{"ID":"a-1","Service":"a","Address":null,"Port":null,'
        b'"Tags":null,"Meta":null,"Weights":null},"Checks":null,"Unknown":{"x":[1]}}]'
    )
    assert one == Registration(service="a", id="a-1", node="n")
    assert decode.health(b"null") == ()
    assert decode.entries(b"null") == ()
    assert decode.services(b"null") == {}


@pytest.mark.parametrize("weight", [0, -3, 10**12])
def test_senseless_weights_and_ports_decode(weight: int) -> None:
    """Judging is not decoding's work: one odd registration must not hide the others."""
    (one,) = decoded(instance(Weights={"Passing": weight, "Warning": weight}, Port=weight))
    assert one.weights == (weight, weight)
    assert one.port == weight


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], Health.PASSING),
        (["passing", "passing"], Health.PASSING),
        (["passing", "warning"], Health.WARNING),
        (["critical", "warning", "passing"], Health.CRITICAL),
        (["passing", "something new"], Health.CRITICAL),
        ([""], Health.CRITICAL),
    ],
)
def test_health_is_the_worst_check(statuses: list[str], expected: Health) -> None:
    (one,) = decoded(instance() | {"Checks": [check(status) for status in statuses]})
    assert one.health is expected


@pytest.mark.parametrize("check_id", ["_node_maintenance", "_service_maintenance:a-1"])
def test_maintenance_is_a_health_of_its_own(check_id: str) -> None:
    (one,) = decoded(instance() | {"Checks": [check("critical"), check("critical", check_id)]})
    assert one.health is Health.MAINTENANCE


def test_a_node_that_failed_is_told_from_a_check_that_failed() -> None:
    lost, ill = decoded(
        instance(ID="1") | {"Checks": [check("critical", "serfHealth")]},
        instance(ID="2") | {"Checks": [check("critical"), check("passing", "serfHealth")]},
    )
    assert (lost.node_failed, lost.health) == (True, Health.CRITICAL)
    assert (ill.node_failed, ill.health) == (False, Health.CRITICAL)


def test_the_output_of_a_check_is_noise() -> None:
    quiet = instance() | {"Checks": [check("passing", Output="took 3 ms", ModifyIndex=5)]}
    noisy = instance() | {"Checks": [check("passing", Output="took 4 ms", ModifyIndex=6)]}
    assert decoded(quiet) == decoded(noisy)
    body = [json.dumps([check("critical", Output=text)]).encode() for text in ("x", "y")]
    assert decode.checks(body[0]) == decode.checks(body[1])


_INSTANCES = st.lists(
    st.builds(
        instance,
        ID=st.text(max_size=4),
        Port=st.integers(-5, 70000),
        Address=st.text(max_size=5),
        Meta=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
        Weights=st.fixed_dictionaries({"Passing": st.integers(-2, 9), "Warning": st.integers(-2, 9)}),
    ),
    max_size=6,
)


@given(_INSTANCES, st.randoms(use_true_random=False))
def test_the_order_of_instances_and_checks_never_shows(instances: list[dict[str, Any]], chance: Any) -> None:
    for one in instances:
        one["Checks"] = [check("passing", "1"), check("warning", "2"), check("critical", "serfHealth")]
    expected = decoded(*instances)
    for one in instances:
        chance.shuffle(one["Checks"])
        items = list(one["Service"]["Meta"].items())
        chance.shuffle(items)
        one["Service"]["Meta"] = dict(items)
    chance.shuffle(instances)
    assert decoded(*instances) == expected


@given(st.dictionaries(st.text(max_size=5), st.lists(st.text(max_size=3), max_size=4), max_size=5), st.randoms())
def test_the_order_of_services_and_tags_never_shows(listed: dict[str, list[str]], chance: Any) -> None:
    expected = list(decode.services(json.dumps(listed).encode()).items())
    items = list(listed.items())
    chance.shuffle(items)
    for _, tags in items:
        chance.shuffle(tags)
    assert list(decode.services(json.dumps(dict(items)).encode()).items()) == expected


@given(st.dictionaries(st.text(max_size=5), st.binary(max_size=20), max_size=5))
def test_entries_are_sorted_and_their_bytes_survive(pairs: dict[str, bytes]) -> None:
    body = [
        {"Key": key, "Value": base64.b64encode(value).decode() or None, "ModifyIndex": 3}
        for key, value in pairs.items()
    ]
    found = decode.entries(json.dumps(body).encode())
    assert [(entry.key, entry.value) for entry in found] == sorted(pairs.items())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"{}",
        b'[{"Node":{}}]',
        b'[{"Node":{"Node":"n"},"Service":{"ID":1,"Service":"a"}}]',
        b"<html>",
        b'["\xff"]',
    ],
)
def test_garbage_is_an_error(body: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        decode.health(body)
