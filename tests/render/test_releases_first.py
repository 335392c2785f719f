"""The upstreams that a variable names are compared one after another: those of releases stand first in http.conf."""

from grayctl.model.catalog import Catalog, Registration
from grayctl.model.plan import Plan
from grayctl.policy.resolve import Limits, resolve
from grayctl.render.fileset import Dialect, Renderer
from tests.releases.site import SETTINGS, TEMPLATES, Instance, plan_of


def test_releases_come_first_in_http_conf() -> None:
    names = [f"a{number}" for number in range(20)]
    catalog = Catalog(
        services={name: (Registration(service=name, id=name, address="10.0.0.1", port=80),) for name in names}
    )
    plans = dict(resolve(catalog, {}, SETTINGS, Limits()).services)
    for name in ("z2", "z1"):
        plans[name] = plan_of(f"service: {name}\nstable: v1\ntraffic: {{v2: 10}}", [Instance(80, "v1")])
    renderer = Renderer(TEMPLATES, SETTINGS, Dialect())
    objects, failed = renderer.objects(Plan(plans, {}))
    assert not failed
    http = renderer.file_set(objects).http
    order = sorted(objects, key=lambda name: http.index(objects[name].filename))
    assert order == ["z1", "z2", *sorted(names)]
