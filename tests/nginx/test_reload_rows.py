"""Rows of FACTS' reload table that are about the machine: memory over many reloads, and a start after a crash."""

from pathlib import Path

from grayctl.nginx.generations import Store
from grayctl.nginx.site import Activated
from tests.support.nginx import Nginx


def resident(pid: int) -> int:
    """VmRSS in KiB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0])


async def test_the_masters_memory_stays_flat_over_many_reloads(nginx: Nginx, store: Store) -> None:
    """It may double once, since the old configuration is freed after the new one is read; it must not go on."""
    site = nginx.site(store)
    site.init(nginx.files("v0"), created=0.0)
    nginx.start()
    assert nginx.process is not None
    sizes = []
    for number in range(1, 25):
        candidate = store.write(nginx.files(f"v{number}"), cause="test", trace_id="", created=0.0)
        assert (await site.check(candidate)).ok
        assert isinstance(await site.activate(candidate), Activated)
        sizes.append(resident(nginx.process.pid))
    assert max(sizes) <= 1.2 * sizes[4]


async def test_nginx_killed_whole_starts_again_on_what_stood(nginx: Nginx, store: Store) -> None:
    """A listener on a unix socket would be left behind and stop this start; the marker is on loopback TCP."""
    site = nginx.site(store)
    site.init(nginx.files("v0"), created=0.0)
    nginx.start()
    candidate = store.write(nginx.files("v1"), cause="test", trace_id="", created=0.0)
    assert (await site.check(candidate)).ok
    assert isinstance(await site.activate(candidate), Activated)
    nginx.kill()
    nginx.start()
    assert nginx.answers() == candidate.stamp


def test_no_shipped_template_listens_on_a_unix_socket() -> None:
    templates = Path(__file__).parents[2] / "templates"
    assert not [path for path in templates.rglob("*.j2") if "unix:" in path.read_text(encoding="utf-8")]
