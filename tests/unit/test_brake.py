"""The brake: which freeze stands, how it ends, and that one which cannot be read counts as pulled."""

from pathlib import Path

import msgspec
import pytest

from grayctl.brake import FILE, Brake, read_local, write_local
from grayctl.errors import StateError
from grayctl.model.catalog import Catalog, Entry, Freeze


class Clocks:
    """Two clocks that a test moves: what the machine calls the time, and what has really passed."""

    def __init__(self) -> None:
        self.wall, self.mono = 1_000_000.0, 50.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.mono += seconds


def a_brake(folder: Path, clocks: Clocks) -> Brake:
    return Brake(folder, clock=lambda: clocks.wall, monotonic=lambda: clocks.mono)


def fleet(value: bytes | Freeze, key: str = "grayctl/freeze") -> Catalog:
    raw = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return Catalog(kv={"freeze": (Entry(key=key, value=raw, modify_index=1),)})


def test_no_freeze_stands_by_itself(tmp_path: Path) -> None:
    brake = a_brake(tmp_path, Clocks())
    assert brake.standing(None) is None
    assert brake.standing(Catalog()) is None
    assert brake.standing(fleet(b"not ours", "grayctl/freezer")) is None


def test_a_freeze_without_end_stands_until_it_is_released(tmp_path: Path) -> None:
    clocks = Clocks()
    brake = a_brake(tmp_path, clocks)
    write_local(tmp_path, Freeze(reason="peak"))
    clocks.pass_(1e9)
    standing = brake.standing(None)
    assert standing is not None
    assert standing.reason == "peak"
    write_local(tmp_path, None)
    write_local(tmp_path, None)
    assert brake.standing(None) is None


@pytest.mark.parametrize("jump", [0.0, -1e6, 1e6])
def test_an_end_is_measured_on_the_monotonic_clock(tmp_path: Path, jump: float) -> None:
    """A wall clock that jumps neither releases nor prolongs."""
    clocks = Clocks()
    brake = a_brake(tmp_path, clocks)
    write_local(tmp_path, Freeze(until=clocks.wall + 60))
    assert brake.standing(None)
    clocks.wall += jump
    clocks.pass_(59)
    assert brake.standing(None)
    clocks.pass_(1)
    assert brake.standing(None) is None


def test_a_freeze_that_ended_before_it_was_seen_does_not_stand(tmp_path: Path) -> None:
    clocks = Clocks()
    write_local(tmp_path, Freeze(until=clocks.wall - 1))
    assert a_brake(tmp_path, clocks).standing(None) is None


def test_the_nodes_own_freeze_comes_first_and_the_fleets_after_it(tmp_path: Path) -> None:
    clocks = Clocks()
    brake = a_brake(tmp_path, clocks)
    catalog = fleet(Freeze(reason="all", scope="fleet"))
    write_local(tmp_path, Freeze(reason="mine", until=clocks.wall + 10))
    reasons = []
    for _ in range(2):
        standing = brake.standing(catalog)
        assert standing is not None
        reasons.append(standing.reason)
        clocks.pass_(10)
    assert reasons == ["mine", "all"]


UNREADABLE = [b"", b"{", b"[]", b'{"until": "soon"}', b"\xff", b'{"reason": "\xff"}']


@pytest.mark.parametrize("value", UNREADABLE)
def test_what_cannot_be_read_counts_as_frozen(tmp_path: Path, value: bytes) -> None:
    brake = a_brake(tmp_path, Clocks())
    standing = brake.standing(fleet(value))
    assert standing is not None
    assert standing.scope == "fleet"
    assert "grayctl/freeze is unreadable" in standing.reason
    (tmp_path / FILE).write_bytes(value)
    with pytest.raises(StateError, match="cannot read the freeze"):
        read_local(tmp_path)
    standing = brake.standing(None)
    assert standing is not None
    assert f"{tmp_path / FILE}: cannot read the freeze" in standing.reason
    assert "grayctl unfreeze" in standing.reason


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot write the freeze: No such file"):
        write_local(tmp_path / "none", Freeze())
