"""`and` and `or` ask first what is cheap and likely to settle the answer; what they mean stays."""

from itertools import permutations

import pytest

from grayctl.model.release import All, AnyOf, Condition, Input, Not, Operator, Source
from grayctl.policy.explain import Step, explain
from grayctl.policy.order import cheapest_first
from grayctl.policy.request import Request
from tests.releases.site import Instance, plan_of

ADDRESS = Condition(Input(Source.CLIENT_IP), Operator.IN, ("10.0.0.0/8",))
HEADER = Condition(Input(Source.HEADER, "X-Version"), Operator.IN, ("v2",))
PATH = Condition(Input(Source.PATH), Operator.PREFIX, ("/pages",))
LISTED = Condition(Input(Source.IDENTITY), Operator.IN_LIST, ("beta",))
DEVICE = Condition(Input(Source.DEVICE), Operator.IN, ("ios",))


@pytest.mark.parametrize("kind", [All, AnyOf])
def test_a_user_agent_is_asked_last_and_an_address_first(kind: type[All | AnyOf]) -> None:
    expected = (ADDRESS, HEADER, PATH, LISTED, DEVICE)
    for parts in permutations(expected):
        assert cheapest_first(kind(parts)) == expected


def test_what_mostly_holds_settles_an_or_and_not_an_and() -> None:
    absent = Not(HEADER)
    assert cheapest_first(All((absent, LISTED))) == (LISTED, absent)
    assert cheapest_first(AnyOf((LISTED, absent))) == (absent, LISTED)


def test_of_a_nested_predicate_only_what_is_likely_to_be_asked_counts() -> None:
    """The device is asked of few requests that have no such header, and of most in an `or` with it."""
    both, either = All((DEVICE, HEADER)), AnyOf((DEVICE, HEADER))
    assert cheapest_first(All((either, DEVICE, Not(DEVICE), both, ADDRESS))) == (
        ADDRESS,
        both,
        DEVICE,
        either,
        Not(DEVICE),
    )


def test_nothing_is_lost_where_a_part_can_settle_nothing() -> None:
    never, always = AnyOf(()), All(())
    assert cheapest_first(All((always, HEADER, never))) == (never, HEADER, always)
    assert cheapest_first(AnyOf((never, HEADER, always))) == (always, HEADER, never)


POLICY = """
service: shop
stable: v1
identity: {header: X-User-ID}
regions: {office: [10.1.0.0/16]}
routes:
  - {name: office, match: {region: office, device: ios}, to: v2}
  - {name: beta, match: {identity: {in_list: beta}}, to: v2}
"""


def test_no_user_agent_is_asked_outside_the_region() -> None:
    told = _explained(Request(address="10.2.0.1"))
    assert [step.why for step in told[:1]] == ["region in [\"office\"] does not hold ('10.2.0.1')"]


@pytest.mark.parametrize(("user", "held"), [(b"ann", True), (b"ANN", False), (b"bob", False), (b"", False)], ids=str)
def test_a_list_is_told_as_one_test_although_it_is_two_tables(user: bytes, *, held: bool) -> None:
    says = "holds" if held else "does not hold"
    step = _explained(Request(address="10.2.0.1", headers=((b"X-User-ID", user),)))[1]
    assert (step.held, step.why) == (held, f'in_list(identity, "beta") {says} ({user.decode()!r})')


def _explained(request: Request) -> tuple[Step, ...]:
    instances = [Instance(80, "v1", host="10.0.0.1"), Instance(80, "v2", host="10.0.0.2")]
    return explain("shop", "shop", plan_of(POLICY, instances, {"beta": ("ann",)}).tables, request).trace
