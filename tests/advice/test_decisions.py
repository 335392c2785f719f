"""What a client may choose: the rules read plain values, whoever names them."""

from pathlib import Path

from grayctl.advice.decisions import JUDGES
from grayctl.advice.finding import Finding, How
from grayctl.advice.view import Decision, Source, View
from grayctl.nginx.tree import read
from grayctl.settings import Settings

EXPLICIT = Decision(
    source=Source.HEADER,
    name="X-Release-Version",
    what="release shop: explicit header X-Release-Version",
    where="shop.yaml:4",
    how=How.RELEASE,
    guard="from: [10.0.0.0/8]",
)
IDENTITY = Decision(source=Source.HEADER, name="X-User-ID", what="release shop: identity header X-User-ID")
REGION = Decision(source=Source.CLIENT_IP, what="release shop: region shanghai", where="shop.yaml:9")


def _findings(folder: Path, *decisions: Decision, http: str = "") -> list[Finding]:
    conf = folder / "nginx.conf"
    conf.write_text(f"events {{}}\nhttp {{\n{http}\n}}\n")
    view = View(read(conf, folder / "state"), Settings(), decisions=decisions)
    return [found for judge in JUDGES for found in judge(view)]


def test_a_header_that_opens_a_version_is_named_with_the_line_that_closes_it(tmp_path: Path) -> None:
    (found,) = _findings(tmp_path, EXPLICIT)
    assert found.rule == "client-decides"
    assert found.what == f"{EXPLICIT.what}: the header X-Release-Version is the client's to choose"
    assert (found.where, found.how, found.advice) == ("shop.yaml:4", How.RELEASE, "from: [10.0.0.0/8]")


def test_an_identity_that_only_cuts_shares_may_be_the_clients(tmp_path: Path) -> None:
    assert _findings(tmp_path, IDENTITY) == []


def test_the_address_as_identity_or_region_needs_realip(tmp_path: Path) -> None:
    (found,) = _findings(tmp_path, REGION, IDENTITY)
    assert found.rule == "client-ip-without-realip"
    assert "release shop: region shanghai" in found.what
    assert _findings(tmp_path, REGION, http=found.advice) == []


def test_nothing_decides_nothing_is_said(tmp_path: Path) -> None:
    assert _findings(tmp_path) == []
