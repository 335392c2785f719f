"""What cannot be done faster: wake by a bare blocking query, write a prepared file, `nginx -t`, SIGHUP to the master.

`python floor_script.py ADDRESS SERVICE KEY PREPARED OUTPUT NGINX CONF PID`: the least that serves a change; nothing is
rendered, synced, proven or undone.
"""

import http.client
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

_APPLYING = threading.Lock()


def apply(prepared: Path, output: Path, check: list[str], master: int) -> None:
    """Make nginx serve what is prepared, when it does not yet."""
    with _APPLYING:
        text = prepared.read_bytes()
        if text != output.read_bytes():
            output.write_bytes(text)
            subprocess.run(check, check=True)
            os.kill(master, signal.SIGHUP)


def follow(address: str, path: str, act: partial[None]) -> None:
    """Call `act` at first and whenever Consul wakes us."""
    connection = http.client.HTTPConnection(address)
    index = "0"
    while True:
        connection.request("GET", f"{path}&wait=5m&index={index}")
        answer = connection.getresponse()
        answer.read()
        index = answer.headers["X-Consul-Index"]
        act()


def main() -> None:
    address, service, key, prepared, output, nginx, conf, master = sys.argv[1:]
    act = partial(apply, Path(prepared), Path(output), [nginx, "-t", "-q", "-c", conf], int(master))
    for path in (f"/v1/health/service/{service}?passing", f"/v1/kv/{key}?raw"):
        threading.Thread(target=follow, args=(address, path, act)).start()


if __name__ == "__main__":
    main()
