"""The floor as a contender: see floor_script.py."""

import sys
from pathlib import Path

from tests.bench.fleet import Fleet
from tests.bench.machines import Upstreams
from tests.support.consul import Consul
from tests.support.nginx import BINARY
from tests.support.process import start

_SCRIPT = Path(__file__).with_name("floor_script.py")


class Floor(Upstreams):
    """Watches one service and one key, and serves what was prepared when one of them changes."""

    def __init__(self, folder: Path, consul: Consul, fleet: Fleet) -> None:
        super().__init__(folder, consul, *fleet.services, released=fleet.released)
        self._fleet = fleet
        self._prepared = folder / "prepared.conf"

    def foresee(self) -> None:
        """Write what shall be served when Consul wakes us next."""
        text = self.text(self._fleet.servers, str(self._fleet.share))
        beside = self._prepared.with_suffix(".new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(self._prepared)

    def launch(self) -> None:
        self.foresee()
        address, watched = self.agent.removeprefix("http://"), self._fleet.changing[0]
        command: list[str | Path] = [sys.executable, "-S", _SCRIPT, address, watched, self._fleet.key]
        command += [self._prepared, self.output, BINARY, self.nginx.conf, str(self.nginx.pid)]
        self.process = start(command, log=self.folder / "tool.log")
