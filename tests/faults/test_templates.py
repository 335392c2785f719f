"""Templates that break while grayctl runs."""

import pytest

from tests.support.ordeal import Ordeal
from tests.support.process import wait_until


@pytest.mark.fault("templates", "the service's own template is broken, then mended")
def test_a_template_of_one_service(ordeal: Ordeal) -> None:
    edge = ordeal.edge
    own = edge.folder / "templates" / "services" / "shop.conf.j2"
    own.parent.mkdir(parents=True)
    edge.configure(top=f'templates_dir = "{edge.folder}/templates"')
    ordeal.begin()
    with ordeal.endured(within=10):
        own.write_text("{% for one in upstreams %}\nupstream {{ one.nme }} {\n{% endfor %}")
        edge.hang_up()
        wait_until(lambda: edge.events("quarantined"), "the service is in quarantine")
        own.unlink()
        edge.hang_up()
