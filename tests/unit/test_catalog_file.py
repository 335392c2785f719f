"""Catalog files: scalars as written; every mistake has one message with file, line and key."""

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
        ("", ":1: the file: must be a mapping of services"),
        ("servics: {}", ":1: servics: unknown key. Allowed here: services"),
        ("services:\n  shop: 5", ":2: services.shop: must be a list of instances; an instance has id"),
        ("services:\n  shop:\n    - {id: a}\n  shop: []", ":4: shop: stands here twice"),
        ("services:\n  shop:\n    - id: a\n      prt: 80", ":4: services.shop.prt: unknown key. An instance has id"),
        ("services:\n  shop:\n    - id: a\n      port: many", ":4: services.shop.port: Expected `int`, got `str`"),
        ("services:\n  shop:\n    - {address: 10.0.0.1}", ":3: services.shop: Object missing required field `id`"),
        ("services:\n  shop:\n    - {id: a, health: well}", ":3: services.shop.health: Invalid enum value 'well'"),
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
