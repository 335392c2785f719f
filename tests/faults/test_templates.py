"""Templates that break while grayctl runs, or before it starts."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.edge import Edge
from tests.support.nginx import current_object
from tests.support.ordeal import Ordeal, fault
from tests.support.process import wait_until

_BROKEN = "{% for one in upstreams %}\nupstream {{ one.nme }} {\n{% endfor %}"
_REFUSED = "no_such_directive on;\n"
# a weight of 13 is one too many for it
_DELICATE = """
upstream shop.gray {
{% for server in upstreams[0].servers %}
    server {{ server.address }} max_fails={{ 1 // (13 - server.weight) * 0 }};
{% endfor %}
}
{% for table in tables %}
split_clients "" {{ table.variable }} { * shop.gray; }
{% endfor %}
"""


def quarantined(edge: Edge, words: str) -> None:
    def shop() -> list[dict[str, Any]]:
        return [one for one in edge.events("quarantined") if one["service"] == "shop"]  # others may be at fault too

    found = wait_until(shop, "the service is in quarantine")[0]
    assert words in found["reason"], found


def reread_failed(edge: Edge, words: str) -> None:
    """The old templates stay in use, and so changes go on."""
    found = wait_until(lambda: edge.events("reread_failed"), "it is said that the template is broken")[0]
    assert words in found["error"]
    edge.backend("meanwhile")
    wait_until(lambda: edge.serves(*edge.backends), "the old templates render on")


def held(edge: Edge, words: str) -> None:
    found = wait_until(lambda: edge.events("held"), "the change is held")[0]
    assert (found["by"], words in found["reason"]) == ("template", True), found


@pytest.fixture
def folder(ordeal: Ordeal) -> Path:
    """The templates' directory, with nothing in it that counts."""
    edge = ordeal.edge
    path = edge.folder / "templates"
    (path / "services").mkdir(parents=True)
    edge.configure(top=f'templates_dir = "{path}"')
    return path


_OWN, _ALL, _SNIPPET, _ENTRY = "services/shop.conf.j2", "service.conf.j2", "snippet.conf.j2", "http.conf.j2"


@pytest.mark.parametrize(
    ("name", "text", "expect", "words"),
    [
        fault("templates", f"{what}, then mended", *values)
        for what, *values in (
            ("the service's own fails", _OWN, _BROKEN, quarantined, "shop.conf.j2:2"),
            ("the service's own is refused by nginx", _OWN, _REFUSED, quarantined, "no_such_directive"),
            ("all services' does not compile", _ALL, "{% for %}", reread_failed, "service.conf.j2:1"),
            ("all services' is refused by nginx", _ALL, _REFUSED, quarantined, "no_such_directive"),
            ("the snippets' fails", _SNIPPET, "{{ nothing }}", quarantined, "snippet.conf.j2:1"),
            ("the entry file's does not compile", _ENTRY, "{% for %}", reread_failed, "http.conf.j2:1"),
            ("the entry file's fails", _ENTRY, "{{ nothing }}", held, "http.conf.j2:1"),
        )
    ],
)
def test_broken(
    ordeal: Ordeal, folder: Path, name: str, text: str, *, expect: Callable[[Edge, str], None], words: str
) -> None:
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10):
        (folder / name).write_text(text, encoding="utf-8")
        edge.hang_up()
        expect(edge, words)
        ordeal.change()
        (folder / name).unlink()
        edge.hang_up()


@pytest.mark.fault("templates", "the entry file's is refused by nginx, then mended")
def test_entry_refused(ordeal: Ordeal, folder: Path) -> None:
    """It belongs to all services, so none of them is blamed."""
    edge = ordeal.edge
    ordeal.begin()
    with ordeal.endured(within=10):
        (folder / "http.conf.j2").write_text(_REFUSED, encoding="utf-8")
        edge.hang_up()
        wait_until(lambda: edge.events("rejected"), "the generation is rejected")
        ordeal.change()
        (folder / "http.conf.j2").unlink()
        edge.hang_up()
    assert not edge.events("quarantined")


@pytest.mark.fault("templates", "one fails on a service's data, then the data is mended")
def test_data_fails(ordeal: Ordeal, folder: Path) -> None:
    """The service leaves quarantine by itself: nobody reads the templates again."""
    edge = ordeal.edge
    (folder / "services" / "shop.conf.j2").write_text(_DELICATE, encoding="utf-8")
    ordeal.begin()
    with ordeal.endured(within=10):
        edge.backend("two", weight=13)
        quarantined(edge, "by zero")
        ordeal.change()
        edge.backend("two", weight=1)
        wait_until(lambda: edge.events("quarantine_left"), "the service leaves quarantine")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        fault("templates", f"{what} while grayctl starts, then mended", name, "{% for %}")
        for what, name in (
            ("the service's own does not compile", _OWN),
            ("all services' does not compile", _ALL),
            ("the entry file's does not compile", _ENTRY),
        )
    ],
)
def test_broken_at_the_start(ordeal: Ordeal, folder: Path, name: str, text: str) -> None:
    edge = ordeal.edge
    ordeal.begin()
    ordeal.grayctl = "restarted"
    with ordeal.endured(within=10):
        edge.down()
        (folder / name).write_text(text, encoding="utf-8")
        edge.run()
        wait_until(lambda: edge.events("template_broken"), "it is said")
        ordeal.change()
        wait_until(lambda: edge.events("quarantined") or edge.events("held"), "the change waits")
        (folder / name).unlink()
        edge.hang_up()


@pytest.mark.fault("templates", "their directory vanishes, then comes back")
def test_directory_gone(ordeal: Ordeal, folder: Path) -> None:
    """The shipped templates do not take their place: that would serve what nobody asked for."""
    edge = ordeal.edge
    (folder / "services" / "shop.conf.j2").write_text(_DELICATE, encoding="utf-8")
    ordeal.begin()
    with ordeal.endured(within=10):
        away = shutil.move(folder, f"{folder}.away")
        edge.hang_up()
        reread_failed(edge, "is no directory")
        shutil.move(away, folder)
        edge.hang_up()
        assert "max_fails=0" in current_object(edge.nginx.state_dir).read_text(encoding="utf-8")
