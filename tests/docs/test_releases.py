"""The page on releases names every field, every operator and every recipe; its policies are clean."""

import re
from pathlib import Path

import pytest

from grayctl.model.release import Device, Source
from grayctl.policy import wire
from grayctl.policy.document import read_document
from grayctl.policy.lint import WARNING, lint

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/releases.md").read_text(encoding="utf-8")
POLICIES = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def _fields(shape: str) -> set[str]:
    return set(wire.schema()["$defs"][shape]["properties"])


def _rows(heading: str) -> str:
    """The first column of the tables below a heading."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE))


def test_every_field_is_in_its_table() -> None:
    assert _fields("PolicyShape") == set(re.findall(r"^`(\w+)`$", _rows("Fields"), re.MULTILINE))
    section = TEXT.partition("\n## Fields\n")[2].partition("\n## ")[0]
    for shape in ("RouteShape", "ExplicitShape", "RegionShape", "BlueGreenShape", "UpstreamShape", "HashShape"):
        missing = {field for field in _fields(shape) if not re.search(rf"`{field}\b", section)}
        assert not missing, shape


def test_every_input_operator_and_device_is_named() -> None:
    rows = _rows("Conditions")
    for word in {*Source, *_fields("Operators")}:
        assert re.search(rf"`{word}[`:]", rows), word
    for device in Device:
        assert f"`{device}`" in TEXT


def test_every_example_is_a_recipe() -> None:
    names = {path.name for path in ROOT.glob("examples/releases/*.yaml")}
    assert names == set(re.findall(r"\(\.\./examples/releases/([\w-]+\.yaml)\)", TEXT))


@pytest.mark.parametrize("policy", POLICIES)
def test_its_policies_are_clean(policy: str) -> None:
    whole = policy if "stable:" in policy else f"service: shop\nstable: v1\n{policy}"
    assert not [one.text for one in lint(read_document(whole, "docs/releases.md")) if one.level == WARNING]
