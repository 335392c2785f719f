"""Applied means that nginx serves it: the protocol against a real nginx, and each way in which it fails."""


from grayctl.model.outcome import RolledBack
from grayctl.nginx.generations import Store
from grayctl.nginx.site import ACTIVATION, Activated, Site
from tests.support.nginx import Nginx, write


async def applied(site: Site, nginx: Nginx, version: str, **more: str) -> Activated | RolledBack:
    candidate = write(site.store, nginx.files(version, **more))
    checked = await site.check(candidate)
    assert checked.ok, checked
    return await site.activate(candidate)


async def test_a_generation_that_is_activated_is_served(nginx: Nginx, store: Store) -> None:
    steps: list[str] = []
    site = nginx.site(store, on_step=steps.append)
    site.init(nginx.files("v1"), created=0.0)
    nginx.start()
    result = await applied(site, nginx, "v2")
    assert isinstance(result, Activated)
    assert result.proven
    assert steps == ["checked", *ACTIVATION]
    assert nginx.get("/version") == "v2.shop.gray\n"
    assert store.current_number() == 1
    assert site.proven
    assert not store.has_pending()
