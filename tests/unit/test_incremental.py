"""What is skipped because its objects are those of last time comes out as if nothing were skipped."""

from collections.abc import Mapping
from dataclasses import replace
from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grayctl.model.catalog import Catalog, Entry, Health, Registration
from grayctl.model.generation import FileSet
from grayctl.model.identity import Derived, Renewed, differing, renewed
from grayctl.model.plan import Known, Plan, ServicePlan
from grayctl.model.release import Live, Slot
from grayctl.model.tokens import Address
from grayctl.policy import resolve as resolving
from grayctl.policy.admission import Presence, present
from grayctl.policy.guard import Guard
from grayctl.policy.live import decode_live, encode_ended, encode_live, revision_of
from grayctl.policy.resolve import Given, Limits, resolve
from grayctl.policy.staging import Scope, Staged, encode_staged
from grayctl.policy.standing import Here, Policies, Standing
from grayctl.render.fileset import Dialect, Renderer
from grayctl.render.templates import Templates
from grayctl.settings import GuardSettings, Settings

SETTINGS = Settings()
# two names with one id, and one that is too long for nginx
NAMES = ("api", "shop.web", "shop_web", "x" * 60)


def registration(service: str, number: int, health: Health = Health.PASSING, host: str = "") -> Registration:
    address = host or f"10.0.0.{number + 1}"
    return Registration(service=service, id=f"{service}-{number}", address=address, port=80, health=health)


def rows(service: str, numbers: tuple[int, ...]) -> tuple[Registration, ...]:
    """A number from 10 on is an instance that is critical; from 20 on one behind a host name."""
    healths = (Health.PASSING, Health.CRITICAL, Health.PASSING)
    return tuple(
        registration(service, one, healths[one // 10], f"host-{one % 2}" if one >= 20 else "") for one in numbers
    )


# what each service has at each step (None: it is not there), and what the host name resolves to
worlds = st.lists(
    st.tuples(
        st.fixed_dictionaries(
            {name: st.none() | st.lists(st.integers(0, 29), max_size=3, unique=True).map(tuple) for name in NAMES}
        ),
        st.integers(0, 1),
    ),
    min_size=2,
    max_size=8,
)


def catalogs(world: list[tuple[Mapping[str, tuple[int, ...] | None], int]]) -> list[Catalog]:
    """As the watcher makes them: what did not change is the same object, and each is renewed from the one before."""
    kept: dict[tuple[str, tuple[int, ...]], tuple[Registration, ...]] = {}
    found: list[Catalog] = []
    services: Mapping[str, tuple[Registration, ...]] = Renewed()
    for numbered, host in world:
        now = {
            name: kept.setdefault((name, numbers), rows(name, numbers))
            for name, numbers in sorted(numbered.items())
            if numbers is not None
        }
        services = renewed(services, differing(now, services), now)
        assert services == now
        found.append(Catalog(services=services, names={"host-0": (f"10.1.0.{host}",), "host-1": ()}))
    return found


@given(worlds, st.sets(st.integers(0, 7)))
def test_every_step_equals_the_same_from_the_beginning(
    world: list[tuple[Mapping[str, tuple[int, ...] | None], int]], missed: set[int]
) -> None:
    templates = Templates()
    renderer = Renderer(templates, SETTINGS, Dialect())
    presence: Presence | None = None
    plan: Plan | None = None
    known: Mapping[str, Known] = Renewed()
    for number, catalog in enumerate(catalogs(world)):
        if number in missed:
            continue
        presence = Presence.of(catalog, presence)
        assert presence.addresses == {name: present(found, catalog.names) for name, found in catalog.services.items()}
        plan = resolve(catalog, known, SETTINGS, Limits(), plan)
        anew = resolve(catalog, dict(known), SETTINGS, Limits())
        assert plan == anew
        assert files(renderer, plan) == files(Renderer(templates, SETTINGS, Dialect()), anew)
        now = {name: Known(one.id, one.known) for name, one in plan.services.items()}
        stale = {name for name in known.keys() | now.keys() if known.get(name) != now.get(name)}
        known = renewed(known, stale, {name: now[name] for name in stale if name in now})


def files(renderer: Renderer, plan: Plan) -> FileSet:
    objects, failed = renderer.objects(plan)
    assert failed == {}
    return renderer.file_set(objects)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 400),
            st.fixed_dictionaries({name: st.integers(0, 12) for name in ("api", "web")}),
            st.sampled_from(["look", "accept", "forget"]),
        ),
        max_size=12,
    )
)
def test_a_guard_that_skips_who_is_at_rest_holds_what_one_that_looks_at_all_holds(
    steps: list[tuple[float, dict[str, int], str]],
) -> None:
    settings = GuardSettings()
    catalogs: dict[tuple[str, int], tuple[Registration, ...]] = {}
    lazy, thorough = Guard(), Guard()
    now = 0.0
    presence: Presence | None = None
    plan: Plan | None = None
    services: Mapping[str, tuple[Registration, ...]] = Renewed()
    serving = Derived(attrgetter("known"))
    for after, counts, what in steps:
        now += after
        found = {
            name: catalogs.setdefault((name, count), rows(name, tuple(range(min(count, 10)))))
            for name, count in counts.items()
        }
        services = renewed(services, differing(found, services), found)
        catalog = Catalog(services=services)
        presence = Presence.of(catalog, presence)
        fresh = {name: present(one, {}) for name, one in found.items()}
        lazy, thorough = lazy.judge(presence.addresses, settings, now), all_due(thorough).judge(fresh, settings, now)
        if what == "accept":
            lazy, thorough = lazy.accept(now), thorough.accept(now)
        assert (lazy.hold, lazy.kept()) == (thorough.hold, thorough.kept())
        plan = resolve(catalog, {}, SETTINGS, Limits(), plan, guarded=lazy.kept())
        lazy = lazy.learn(serving.of(plan.services), settings, now)
        healthy = {name: one.known for name, one in plan.services.items()}
        thorough = all_due(thorough).learn(healthy, settings, now)
        assert sights(lazy) == sights(thorough)
        if what == "forget":
            lazy, thorough = lazy.forget("api"), thorough.forget("api")


def sights(guard: Guard) -> dict[str, tuple[object, ...]]:
    """All that a judgement or a hold depends on; which numbers are remembered that were never the most does not."""
    return {service: (one.present, one.most, one.servers) for service, one in guard.sights.items()}


def all_due(guard: Guard) -> Guard:
    return replace(guard, due=frozenset(guard.sights))


def test_one_change_of_many_services_plans_one(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[str] = []
    real = resolving._plan

    def counting(service: str, all_of_it: Given, before: ServicePlan | None) -> ServicePlan:
        planned.append(service)
        return real(service, all_of_it, before)

    monkeypatch.setattr(resolving, "_plan", counting)
    services = {f"s{number:03}": rows(f"s{number:03}", (0, 1)) for number in range(200)}
    first = resolve(Catalog(services=services), {}, SETTINGS, Limits())
    planned.clear()
    after = {**services, "s007": rows("s007", (0, 2))}
    second = resolve(Catalog(services=after), {}, SETTINGS, Limits(), first)
    assert planned == ["s007"]
    assert [name for name, one in second.services.items() if one is not first.services[name]] == ["s007"]
    renderer = Renderer(Templates(), SETTINGS, Dialect())
    before, _ = renderer.objects(first)
    now, _ = renderer.objects(second)
    assert [name for name, one in now.items() if one is not before[name]] == ["s007"]


def test_other_settings_plan_all_anew() -> None:
    catalog = Catalog(services={"shop": rows("shop", (0,))})
    plan = resolve(catalog, {}, SETTINGS, Limits())
    other = Settings(nginx=SETTINGS.nginx)
    assert plan.services["shop"] is resolve(catalog, {}, other, Limits(), plan).services["shop"]
    assert resolve(catalog, {}, other, Limits(16), plan).refused.keys() == {"shop"}


def test_differing_names_what_is_new_gone_or_another_object() -> None:
    one, two = Address("10.0.0.1", 1), Address("10.0.0.1", 2)
    then = {"a": one, "b": one, "c": one}
    assert differing(then, then) == set()
    assert differing({"a": one, "b": one, "c": one}, then) == set()
    assert differing({"a": one, "b": Address("10.0.0.1", 1), "c": one}, then) == {"b"}
    assert differing({"a": one, "d": one, "c": one}, then) == {"b", "d"}
    assert differing({"a": one, "c": one}, then) == {"b"}
    assert differing({}, then) == {"a", "b", "c"}
    assert dict(renewed(then, {"b"}, {})) == {"a": one, "c": one}
    assert list(renewed(then, {"a", "b", "d"}, {"a": two, "d": two}).items()) == [("a", two), ("c", one), ("d", two)]


def test_a_renewed_mapping_knows_what_it_renewed_and_nothing_of_what_came_before() -> None:
    one, two, three = (Address("10.0.0.1", port) for port in (1, 2, 3))
    first: Mapping[str, Address] = renewed({}, set(), {"a": one, "b": one})
    second = renewed(first, {"a", "b", "d"}, {"a": two, "b": one})
    assert differing(second, first) == {"a"}, "b is the same object still, d was never there"
    third = renewed(second, {"b"}, {"c": three})
    assert differing(third, second) == {"b", "c"}
    assert differing(third, first) == {"a", "b", "c"}
    assert differing(first, third) == {"a", "b", "c"}
    assert renewed(third, {"x"}, {"c": three}) is third


@given(
    st.integers(0, 30),
    st.lists(
        st.tuples(
            st.sets(st.integers(0, 40).map(str), max_size=3),
            st.dictionaries(st.integers(0, 40).map(str), st.integers(0, 3), max_size=3),
            st.booleans(),
        ),
        max_size=12,
    ),
)
def test_a_renewed_mapping_is_the_dict_it_stands_for(
    size: int, steps: list[tuple[set[str], dict[str, int], bool]]
) -> None:
    plain = {str(number): 0 for number in range(size)}
    one: Mapping[str, int] = Renewed(plain)
    for stale, made, walked in steps:
        before, then = one, dict(plain)
        one = renewed(one, stale, made)
        plain = {name: found for name, found in plain.items() if name not in stale - made.keys()}
        plain |= {name: made[name] for name in sorted(made)}
        assert len(one) == len(plain)
        for name in map(str, range(42)):
            assert (one.get(name, -1), name in one) == (plain.get(name, -1), name in plain)
        changed = {name for name in plain.keys() | then.keys() if plain.get(name) != then.get(name)}
        assert differing(one, before) == changed
        if walked:
            assert sorted(one) == sorted(one.keys()) == sorted(plain)
            assert sorted(one.items()) == sorted(plain.items())
            assert sorted(one.values()) == sorted(plain.values())
        assert before == then
    with pytest.raises(KeyError):
        one["41"]


def test_a_derived_mapping_is_made_anew_where_its_source_differs() -> None:
    made: list[int] = []

    def make(number: int) -> str:
        made.append(number)
        return str(number % 10)

    derived = Derived(make)
    source: Mapping[str, int] = renewed({}, set(), {"a": 1001, "b": 1002})
    first = derived.of(source)
    assert (first, sorted(made)) == ({"a": "1", "b": "2"}, [1001, 1002])
    made.clear()
    second = derived.of(renewed(source, {"b"}, {"b": 1012}))
    assert second is first, "what comes out equal is the very mapping of last time"
    assert made == [1012]
    assert derived.of({"b": 7}) == {"b": "7"}


POLICIES = [f"stable: v1\ntraffic: {{v2: {share}}}\n".encode() for share in (5, 10)]
LIVES = [encode_live(Live(revision_of(text), "salt", "v1", (Slot("v2", 500),))) for text in POLICIES]
VALUES = {
    "releases": (*POLICIES, b"stable: [", b""),
    "live": (*LIVES, encode_ended(), b"{}"),
    "staged": (
        encode_staged(Staged(Scope(), POLICIES[1], Live(revision_of(POLICIES[1]), "salt", "v1"))),
        encode_staged(Staged(Scope({"env": "test"}), POLICIES[0], Live(revision_of(POLICIES[0]), "salt", "v1"))),
        b"{",
    ),
    "drains": (b'{"instances": {}}', b"["),
}


def entries(values: Mapping[tuple[str, str], int]) -> dict[str, tuple[Entry, ...]]:
    """As Consul tells them: (prefix, service) -> which of the values; -1 for none."""
    return {
        name: tuple(
            Entry(key=f"grayctl/{name}/{service}", value=possible[which], modify_index=1 + which)
            for service in ("api", "web")
            if (which := values[name, service]) >= 0
        )
        for name, possible in VALUES.items()
    }


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                (name, service): st.integers(-1, len(possible) - 1)
                for name, possible in VALUES.items()
                for service in ("api", "web")
            }
        ),
        min_size=2,
        max_size=6,
    )
)
def test_policies_that_are_read_once_come_out_as_if_all_were_read_again(
    steps: list[dict[tuple[str, str], int]],
) -> None:
    lazy, thorough, here = Policies({}), Policies({}), Here("edge-1", {})
    for values in steps:
        thorough._verdicts.clear()
        thorough._read.clear()
        assert lazy.judge(entries(values), here) == thorough.judge(entries(values), here)


def test_one_change_of_many_policies_reads_one(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counting(key: str, value: bytes) -> object:
        read.append(key)
        return decode_live(key, value)

    monkeypatch.setattr("grayctl.policy.standing.decode_live", counting)
    values = {(name, f"s{number:03}"): 0 for name in ("releases", "live") for number in range(200)}
    policies = Policies({})

    def judged() -> Standing:
        return policies.judge(
            {
                name: tuple(
                    Entry(key=f"grayctl/{name}/{service}", value=VALUES[name][which], modify_index=1 + which)
                    for (kind, service), which in values.items()
                    if kind == name
                )
                for name in ("releases", "live")
            }
        )

    first = judged()
    read.clear()
    values |= {("releases", "s007"): 1, ("live", "s007"): 1}
    second = judged()
    assert read == ["grayctl/live/s007"]
    assert differing(second.in_force, first.in_force) == {"s007"}
