"""`python -m tests.bench`: registration to served, grayctl beside consul-template, ratios as the headline."""

import argparse
import platform
import time
from pathlib import Path

import msgspec

from tests.bench.served import Result, run

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=100, help="registrations for each contender (default 100)")
    changes = parser.parse_args().changes
    ours, peer = run(changes)
    print(f"registration -> served, one service, {changes} changes each, alternating, one agent; milliseconds\n")
    print(f"{'':28}{'median':>9}{'p95':>9}{'min':>9}{'max':>9}")
    for one, label in ((ours, "grayctl run"), (peer, "consul-template, nginx -t")):
        print(f"{label:28}{_row(one)}")
    if ours.samples and peer.samples:
        ratios = f"median {ours.median / peer.median:.2f}, p95 {ours.quantile(0.95) / peer.quantile(0.95):.2f}"
        print(f"\nratio grayctl / consul-template: {ratios} (below 1: grayctl is faster)")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"served-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_bytes(msgspec.json.encode({"machine": platform.platform(), "changes": changes, "results": [ours, peer]}))
    print(f"samples: {path}")


def _row(one: Result) -> str:
    if not one.samples:
        return "  missing: set CONSUL_TEMPLATE or put consul-template on PATH"
    return "".join(f"{value:9.1f}" for value in (one.median, one.quantile(0.95), min(one.samples), max(one.samples)))


main()
