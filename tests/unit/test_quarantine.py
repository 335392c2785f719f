"""Quarantine: one service stays where it was good, all others move on."""

import pytest

from grayctl.model.generation import Object
from grayctl.model.outcome import Applied, Outcome, Rejected, RolledBack, Unchanged
from grayctl.quarantine import Case, Ward, culprit, substitute
from grayctl.report import result


def an_object(service: str, sha: str) -> Object:
    return Object(service, service, sha, f"# {sha}", "# snippet", "# pass")


NEW = {"shop": an_object("shop", "new"), "other": an_object("other", "new")}
GOOD = {"shop": an_object("shop", "good")}
STUBS = {"shop": an_object("shop", "stub")}
REFUSED = Ward().admit("shop", "nginx said no", 100.0, "new")
SERVED = Applied(7, proven=True, changed=("shop",), quarantined={}, timings={})
UNRENDERED = Ward().admit("shop", "the template failed", 100.0)


@pytest.mark.parametrize(
    ("rendered", "ward", "last_good", "stubs", "served"),
    [
        (NEW, Ward(), GOOD, {}, {"shop": "new", "other": "new"}),
        (NEW, REFUSED, GOOD, STUBS, {"shop": "good", "other": "new"}),
        (NEW, REFUSED, {}, STUBS, {"shop": "stub", "other": "new"}),
        (NEW, REFUSED, {}, {}, {"other": "new"}),
        ({"other": NEW["other"]}, UNRENDERED, GOOD, STUBS, {"shop": "good", "other": "new"}),
        # what it would be has changed: it is tried
        ({"shop": an_object("shop", "newer")}, REFUSED, GOOD, STUBS, {"shop": "newer"}),
        (NEW, UNRENDERED, GOOD, STUBS, {"shop": "new", "other": "new"}),
    ],
)
def test_what_each_service_gets(
    rendered: dict[str, Object],
    ward: Ward,
    last_good: dict[str, Object],
    stubs: dict[str, Object],
    served: dict[str, str],
) -> None:
    chosen = substitute(rendered, ward, last_good, stubs)
    assert {service: one.sha for service, one in chosen.items()} == served


def test_who_is_admitted_again_keeps_the_time_of_entry() -> None:
    again = REFUSED.admit("shop", "still no", 200.0, "newer")
    assert again.cases == {"shop": Case("still no", 100.0, "newer")}
    assert again.holds(an_object("shop", "newer"))
    assert not again.holds(NEW["shop"])
    assert REFUSED.cases["shop"].reason == "nginx said no"


def test_a_release_lets_one_out() -> None:
    ward = REFUSED.admit("a", "why", 1.0)
    assert ward.reasons() == {"a": "why", "shop": "nginx said no"}
    assert list(ward.reasons()) == ["a", "shop"]
    assert ward.release("shop").reasons() == {"a": "why"}
    assert ward.release("unknown") == ward


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/var/lib/grayctl/objects/shop-new.conf", "shop"),
        ("/staging/elsewhere/objects/other-new.conf", "other"),
        ("shop-new.conf", "shop"),
        ("/var/lib/grayctl/objects/shop-old.conf", None),
        ("/var/lib/grayctl/snippets/shop.conf", "shop"),
        ("/var/lib/grayctl/snippets/pass/shop.conf", "shop"),
        ("/etc/nginx/snippets/shop.conf", None),
        ("/etc/nginx/snippets/pass/shop.conf", None),
        ("/var/lib/grayctl/snippets/third.conf", None),
        ("/etc/nginx/nginx.conf", None),
        ("", None),
    ],
)
def test_the_culprit_is_who_nginx_names(path: str, service: str | None) -> None:
    assert culprit(path, NEW, "/var/lib/grayctl") == service


@pytest.mark.parametrize(
    ("outcome", "about", "code"),
    [
        (SERVED, None, 1),
        (SERVED, ("shop",), 1),
        (SERVED, ("other",), 0),
        (SERVED, (), 0),
        (Unchanged(7), (), 0),
        (Rejected(7, "f00", "nginx said no"), (), 1),
        (RolledBack(7, 8, "f00", "not proven", restored=True), (), 3),
    ],
)
def test_a_command_fails_by_the_quarantine_of_what_it_was_to_change(
    outcome: Outcome, about: tuple[str, ...] | None, code: int
) -> None:
    answer = result(outcome, REFUSED, about=about)
    assert answer.exit_code == code
    assert "shop is in quarantine: nginx said no" in answer.message, "it is told in any case"
