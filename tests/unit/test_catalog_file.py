"""Catalog files: scalars as written; every mistake has one message with file, line and key."""

import json
from pathlib import Path

import pytest

from grayctl.catalog_file import load
from grayctl.errors import CatalogFileError
from grayctl.model.catalog import Health


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_scalars_are_taken_as_written(tmp_path: Path) -> None:
    text = (
        "services:\n  shop:\n    - {id: 1, address: 10.0.0.1, port: 80, version: 1.10, weight: 020, health: warning}\n"
    )
    catalog = load(write(tmp_path, text + "  none:\n"))
    (one,) = catalog.services["shop"]
    assert (one.id, one.port, one.health) == ("1", 80, Health.WARNING)
    assert dict(one.meta) == {"version": "1.10", "weight": "020"}
    assert catalog.services["none"] == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services: [", ":1: this is no YAML: "),
        ("services:\n  shop:\n   - {id: a\n", "this is no YAML: "),
        ("services:\n\tshop: []", ":2: this is no YAML: found character '\\t'"),
        ("services:\n  shop: [{id: a\x07}]", ":2: this is no YAML: the character U+0007 is not allowed"),
        ("a: 1\n---\nb: 2", ":2: this is no YAML: but found another document"),
        ("services: " + "[" * 5000, ":1: nested too deeply"),
        ("services: []", ":1: services: must be a mapping of service names"),
        ("services: {[a]: []}", ":1: services: a key must be a text"),
        ("services:\n  shop:\n    - 5", ":3: services.shop[0]: must be a mapping of id, address"),
        ("services:\n  shop:\n    - id: a\n      tags: x", ":4: services.shop[0].tags: Expected `array`, got `str`"),
        (
            "services:\n  shop:\n    - id: a\n      meta: {a: [1]}",
            ":4: services.shop[0].meta: Expected `str`, got `array`",
        ),
        (
            "services:\n  shop:\n    - id: a\n      meta: &a {x: *a}",
            ":4: services.shop[0].meta.x: an alias stands inside what it names",
        ),
        (
            "services:\n  shop:\n    - id: a\n      tags: &a [*a]",
            ":4: services.shop[0].tags[0]: an alias stands inside what it names",
        ),
        (
            'services:\n  shop:\n    - id: "\\ud83e"',
            ":3: services.shop[0].id: '\\ud83e' holds half a character",
        ),
        ('services:\n  "\\udd80": []', ":2: services: '\\udd80' holds half a character"),
        ("", ":1: is empty"),
        ("5", ":1: must be a mapping of services"),
        ("{}", ":1: services: is missing"),
        ('services: "\\UFFFFFFFF"', ":1: this is no YAML: an escape that is no character"),
        ("services: {a: x\x85}", ":1: the line break U+0085 is refused as it is"),
        (
            "a: &a [1,1,1,1,1,1,1,1]\n"
            + "".join(f"{b}: &{b} [{f'*{a},' * 8}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
            ":1: its aliases make too much of it",
        ),
        ("servics: {}", ":1: servics: unknown key. Allowed here: services"),
        ("services:\n  shop: 5", ":2: services.shop: must be a list of instances; an instance has id"),
        ("services:\n  shop:\n    - {id: a}\n  shop: []", ":4: services.shop: stands here twice"),
        ("services:\n  shop:\n    - id: a\n      prt: 80", ":4: services.shop[0].prt: unknown key. An instance has id"),
        ("services:\n  shop:\n    - id: a\n      port: many", ":4: services.shop[0].port: Expected `int`, got `str`"),
        ("services:\n  shop:\n    - {address: 10.0.0.1}", ":3: services.shop[0]: Object missing required field `id`"),
        ("services:\n  shop:\n    - {id: a, health: well}", ":3: services.shop[0].health: Invalid enum value 'well'"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CatalogFileError) as caught:
        load(write(tmp_path, text))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "c.yaml"))
    assert caught.value.exit_code == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogFileError, match="cannot read the catalog: No such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"\xff")
    with pytest.raises(CatalogFileError, match="not UTF-8"):
        load(tmp_path / "latin.yaml")


def test_json_of_every_writer_is_read(tmp_path: Path) -> None:
    """Tabs as indentation, halves of one character, a colon without a blank."""
    meta = json.dumps({"services": {"shop": [{"id": "\N{CRAB}", "meta": {"a": "b"}}]}}, indent="\t")
    assert "\\ud83e\\udd80" in meta
    (one,) = load(write(tmp_path, meta)).services["shop"]
    assert (one.id, one.meta) == ("\N{CRAB}", (("a", "b"),))
    assert load(write(tmp_path, '{"services":{"a":[]}}')).services == {"a": ()}


def test_json_is_read_too(tmp_path: Path) -> None:
    catalog = load(write(tmp_path, '{"services": {"shop": [{"id": "a", "port": 80, "version": 1.10, "weight": 5}]}}'))
    assert dict(catalog.services["shop"][0].meta) == {"version": "1.10", "weight": "5"}
