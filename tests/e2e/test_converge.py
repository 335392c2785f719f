"""Converging over a real nginx, with catalogs made by hand: what is refused, remembered, and who is found guilty."""

from pathlib import Path

import msgspec
import pytest

from grayctl.assembly import assemble
from grayctl.converge import Converger, Wanted
from grayctl.errors import StateError
from grayctl.model.catalog import Catalog, Registration
from grayctl.model.generation import Manifest
from grayctl.model.outcome import Applied, Held, Rejected, RolledBack, Unchanged
from grayctl.nginx.check import Checked
from grayctl.nginx.generations import Store
from grayctl.nginx.inspect import inspect
from grayctl.nginx.site import Site
from grayctl.policy.resolve import Limits
from grayctl.render.fileset import Dialect, Renderer
from grayctl.render.templates import Templates
from grayctl.settings import ServiceSettings, Settings, WatchSettings
from tests.support.nginx import Nginx


class CountingSite(Site):
    """Counts how often nginx is asked."""

    checks = 0

    async def check(self, candidate: Manifest, *, trial: bool = False) -> Checked:
        self.checks += 1
        return await super().check(candidate, trial=trial)


def settings_for(nginx: Nginx, **more: object) -> Settings:
    base = Settings(state_dir=str(nginx.state_dir), nginx=nginx.settings(), watch=WatchSettings(services=("shop",)))
    return msgspec.structs.replace(base, **more)


def catalog(nginx: Nginx, **services: int) -> Catalog:
    """Service -> how many instances; all of them are the backend of this nginx or closed ports beside it."""
    return Catalog(
        services={
            name: tuple(
                Registration(
                    service=name,
                    id=f"{name}-{number}",
                    address=f"127.0.{number // 250}.{number % 250 + 1}",
                    port=nginx.backend,
                )
                for number in range(count)
            )
            for name, count in services.items()
        }
    )


def wanted(what: Catalog, *, retry: bool = False) -> Wanted:
    return Wanted(what, None, "test", "trace", retry)


async def converger(nginx: Nginx, store: Store, settings: Settings) -> tuple[Converger, CountingSite]:
    """A converger over generation 0, and the site whose checks it counts."""
    await assemble(settings, store)
    site = CountingSite(settings.nginx, settings.reload, store, inspect(settings.nginx, nginx.state_dir))
    renderer = Renderer(Templates(settings.templates_dir), settings, Dialect())
    return Converger(settings, renderer, store, site, Limits()), site


async def test_the_way_of_one_change(nginx: Nginx, store: Store) -> None:
    one, site = await converger(nginx, store, settings_for(nginx))
    nginx.start()
    first = await one.converge(wanted(catalog(nginx, shop=1)))
    assert isinstance(first, Applied)
    assert (first.proven, first.changed) == (True, ("shop",))
    assert nginx.get("/") == "backend\n"
    assert await one.converge(wanted(catalog(nginx, shop=1))) == Unchanged(first.generation)
    assert site.checks == 1


async def test_what_nginx_refuses_is_remembered_and_not_asked_again_on_every_wake(
    nginx: Nginx, store: Store, tmp_path: Path
) -> None:
    """The entry template belongs to all services: a refusal quarantines nobody."""
    one, site = await converger(nginx, store, settings_for(nginx))
    nginx.start()
    good = await one.converge(wanted(catalog(nginx, shop=1)))
    assert isinstance(good, Applied)
    templates = tmp_path / "templates"
    templates.mkdir()
    shipped = (Path(__file__).parents[2] / "templates" / "http.conf.j2").read_text(encoding="utf-8")
    (templates / "http.conf.j2").write_text(shipped + "\nno_such_directive;\n", encoding="utf-8")
    settings = settings_for(nginx, templates_dir=str(templates))
    one.reconfigure(settings, Renderer(Templates(str(templates)), settings, Dialect()), Limits())
    refused = await one.converge(wanted(catalog(nginx, shop=2)))
    assert isinstance(refused, Rejected)
    assert "no_such_directive" in refused.reason
    asked = site.checks
    for _ in range(5):
        assert await one.converge(wanted(catalog(nginx, shop=2))) == refused
    assert site.checks == asked
    assert isinstance(await one.converge(wanted(catalog(nginx, shop=2), retry=True)), Rejected)
    assert site.checks > asked
    assert nginx.get("/") == "backend\n"
    assert not one.ward.cases


async def test_an_error_without_a_place_is_found_by_halving(nginx: Nginx, store: Store) -> None:
    """A zone too small for its servers: nginx names neither file nor line."""
    settings = settings_for(nginx, services={"large": ServiceSettings(zone="64k")})
    one, _ = await converger(nginx, store, settings)
    nginx.start()
    outcome = await one.converge(wanted(catalog(nginx, shop=1, a=1, b=2, large=400, z=1)))
    assert isinstance(outcome, Applied)
    assert set(outcome.quarantined) == {"large"}
    assert "no memory in upstream zone" in outcome.quarantined["large"]
    assert nginx.get("/") == "backend\n"


async def test_a_service_in_quarantine_keeps_its_time_of_entry_and_leaves_by_itself(
    nginx: Nginx, store: Store, tmp_path: Path
) -> None:
    own = tmp_path / "templates" / "services" / "shop.conf.j2"
    own.parent.mkdir(parents=True)
    own.write_text("bad_directive;\n", encoding="utf-8")
    settings = settings_for(nginx, templates_dir=str(tmp_path / "templates"))
    one, _ = await converger(nginx, store, settings)
    nginx.start()
    await one.converge(wanted(catalog(nginx, shop=1)))
    since = one.ward.cases["shop"].since
    await one.converge(wanted(catalog(nginx, shop=1), retry=True))
    assert one.ward.cases["shop"].since == since
    own.unlink()
    one.reconfigure(settings, Renderer(Templates(settings.templates_dir), settings, Dialect()), Limits())
    assert isinstance(await one.converge(wanted(catalog(nginx, shop=1))), Applied)
    assert not one.ward.cases


async def test_a_name_once_published_stays(nginx: Nginx, store: Store) -> None:
    one, _ = await converger(nginx, store, settings_for(nginx))
    nginx.start()
    await one.converge(wanted(catalog(nginx, shop=1, other=1)))
    outcome = await one.converge(wanted(catalog(nginx, shop=1)))
    assert isinstance(outcome, Unchanged)
    manifest = store.current()
    assert manifest is not None
    assert set(manifest.objects) == {"shop", "other"}


async def test_a_name_that_consul_still_lists_cannot_be_forgotten_and_one_that_has_gone_stays_away(
    nginx: Nginx, store: Store
) -> None:
    """Forgotten while a catalog that names it is on its way, it would come back, and answer 503 for ever."""
    one, _ = await converger(nginx, store, settings_for(nginx))
    nginx.start()
    await one.converge(wanted(catalog(nginx, shop=1, other=1)))
    with pytest.raises(StateError, match="still lists 'other'"):
        one.demand_forgettable("other", catalog(nginx, shop=1, other=0))
    gone = catalog(nginx, shop=1)
    one.demand_forgettable("other", gone)
    assert isinstance(await one.forget("other", wanted(gone)), Applied)
    assert isinstance(await one.converge(wanted(gone)), Unchanged)
    manifest = store.current()
    assert manifest is not None
    assert set(manifest.objects) == {"shop"}


async def test_two_names_with_one_id_the_first_stays(nginx: Nginx, store: Store) -> None:
    one, _ = await converger(nginx, store, settings_for(nginx))
    nginx.start()
    await one.converge(wanted(catalog(nginx, **{"shop": 1, "shop.api": 1})))
    outcome = await one.converge(wanted(catalog(nginx, **{"shop": 1, "shop.api": 1, "shop-api": 1})))
    assert isinstance(outcome, Unchanged)
    assert "belongs to 'shop.api'" in one.ward.cases["shop-api"].reason


async def test_a_generation_that_was_rolled_back_is_not_signalled_again_on_every_wake(
    nginx: Nginx, store: Store
) -> None:
    nginx.http_extra = "limit_req_zone $binary_remote_addr zone=one:1m rate=1000r/s;"
    nginx.write_conf()
    one, site = await converger(nginx, store, settings_for(nginx))
    nginx.start()
    good = await one.converge(wanted(catalog(nginx, shop=1)))
    nginx.http_extra = "limit_req_zone $remote_addr zone=one:1m rate=1000r/s;"
    nginx.write_conf()
    failed = await one.converge(wanted(catalog(nginx, shop=2)))
    assert isinstance(failed, RolledBack)
    assert isinstance(good, Applied)
    assert (failed.generation, failed.restored) == (good.generation, True)
    asked = site.checks
    assert await one.converge(wanted(catalog(nginx, shop=2), retry=True)) == failed
    assert site.checks == asked


@pytest.mark.parametrize(
    "sizes", [{"shop": 25}, {"shop": 1500}, {f"s{number}": 1 + number % 3 for number in range(600)}]
)
async def test_upstreams_of_any_size_and_number_fit_their_zone(
    nginx: Nginx, store: Store, sizes: dict[str, int]
) -> None:
    one, _ = await converger(nginx, store, settings_for(nginx))
    nginx.start()
    outcome = await one.converge(wanted(catalog(nginx, shop=1)))
    assert isinstance(outcome, Applied)
    outcome = await one.converge(wanted(catalog(nginx, **{"shop": 1, **sizes})))
    assert isinstance(outcome, Applied)
    assert not outcome.quarantined
    assert outcome.proven


async def test_the_users_broken_tree_holds_everything(nginx: Nginx, store: Store) -> None:
    one, _ = await converger(nginx, store, settings_for(nginx))
    nginx.start()
    nginx.server_extra = "no_such_directive;"
    nginx.write_conf()
    outcome = await one.converge(wanted(catalog(nginx, shop=1)))
    assert isinstance(outcome, Held)
    assert outcome.by == "user-config"
    assert not one.ward.cases
