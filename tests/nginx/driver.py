"""A grayctl of its own process that checks or activates one candidate, or both, and is killed after a given step.

    python driver.py '{"conf": ..., "marker": ..., "state_dir": ..., "number": 1, "act": "activate", "die_at": 3}'

Prints the steps as JSON when it lives to the end. Run from the root of the repository.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from grayctl.model.generation import Manifest
from grayctl.nginx.generations import Store
from grayctl.nginx.inspect import inspect
from grayctl.nginx.site import Site
from grayctl.settings import Duration, NginxSettings, ReloadSettings


async def perform(site: Site, act: str, candidate: Manifest) -> None:
    """Do as the converger does: `check`, `activate`, or `apply`, which is both."""
    if act != "activate":
        await site.check(candidate)
    if act != "check":
        await site.activate(candidate)


def main() -> None:
    spec = json.loads(sys.argv[1])
    settings = NginxSettings(binary=spec["binary"], conf=spec["conf"], marker=spec["marker"])
    steps: list[str] = []

    def on_step(name: str) -> None:
        steps.append(name)
        if len(steps) - 1 == spec["die_at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    with Store(Path(spec["state_dir"])).opened() as store:
        reload = ReloadSettings(confirm_timeout=Duration(spec["confirm_timeout"]))
        site = Site(settings, reload, store, inspect(settings, store.root), on_step=on_step)
        site._namespace = site._namespace and not spec["flip"]
        asyncio.run(perform(site, spec["act"], store.read(spec["number"])))
    print(json.dumps(steps))


if __name__ == "__main__":
    main()
