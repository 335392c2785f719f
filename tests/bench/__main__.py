"""`python -m tests.bench served|sizes|converge|churn|judge|flap|releases`: see docs/benchmarks.md."""

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import msgspec

from tests.bench import churn, flap, incremental, releases, served, sizes
from tests.bench.growth import Figure, figures
from tests.bench.plot import draw

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("served", help="registration to served, grayctl beside consul-template")
    one.add_argument("--changes", type=int, default=100, help="registrations for each contender (default 100)")
    one = commands.add_parser("sizes", help="a weight changes in one of many services, grayctl beside consul-template")
    one.add_argument("--changes", type=int, default=50, help="for each contender at each size (default 50)")
    one.add_argument("--services", type=int, nargs="+", default=sizes.SIZES, help="the sizes (default 1 10 100 1000)")
    one.add_argument("--locations", type=int, help="how many of the services have a location (default all)")
    one = commands.add_parser("converge", help="what one change of many services costs, without disk and nginx")
    one.add_argument("--changes", type=int, default=50, help="at each size (default 50)")
    one = commands.add_parser("churn", help="what grayctl takes under constant churn, and whether it grows")
    one.add_argument("--minutes", type=float, default=30.0, help="how long (default 30)")
    one.add_argument("--every", type=float, default=3.0, help="seconds between two samples (default 3)")
    one = commands.add_parser("judge", help="judge the samples of a churn run again, and draw them beside it")
    one.add_argument("samples", type=Path, help="the JSON that the run has written")
    one = commands.add_parser(
        "flap", help="an instance flaps while nginx is under load, grayctl beside consul-template"
    )
    one.add_argument("--seconds", type=int, default=60, help="for each contender (default 60)")
    one = commands.add_parser("releases", help="what a policy costs beside an upstream by hand; from its key to served")
    one.add_argument("--turns", type=int, default=10, help="of each contender, in each row (default 10)")
    one.add_argument("--seconds", type=int, default=2, help="for each turn (default 2)")
    one.add_argument("--changes", type=int, default=50, help="of the policy, each way (default 50; 0: none)")
    options = parser.parse_args()
    match options.command:
        case "served" | "sizes" | "converge":
            return _changed(options)
        case "churn":
            return _judge(_save("churn", churn.run(options.minutes * 60, options.every)))
        case "judge":
            return _judge(options.samples)
        case "releases":
            return _releases(options.turns, options.seconds, options.changes)
        case _:
            return _flap(options.seconds)


def _changed(options: argparse.Namespace) -> int:
    match options.command:
        case "served":
            return _served(options.changes)
        case "sizes":
            return _sizes(options.changes, tuple(options.services), options.locations)
        case _:
            return _converge(options.changes)


def _save(name: str, results: object, **more: object) -> Path:
    """Write the results with the machine and its load average."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    content = {"machine": platform.platform(), "load": os.getloadavg(), "results": results} | more
    path.write_bytes(msgspec.json.encode(content))
    print(f"samples: {path}")
    return path


# ---------------------------------------------------------------- served


def _served(changes: int) -> int:
    ours, peer = served.run(changes)
    print(f"registration -> served, one service, {changes} changes each, alternating, one agent; milliseconds\n")
    print(f"{'':28}{'median':>9}{'p95':>9}{'min':>9}{'max':>9}")
    for one, label in ((ours, "grayctl run"), (peer, "consul-template, nginx -t")):
        print(f"{label:28}{_row(one)}")
    if ours.samples and peer.samples:
        ratios = f"median {ours.median / peer.median:.2f}, p95 {ours.quantile(0.95) / peer.quantile(0.95):.2f}"
        print(f"\nratio grayctl / consul-template: {ratios} (below 1: grayctl is faster)")
    _save("served", [ours, peer], changes=changes)
    return 0


def _row(one: served.Result) -> str:
    if not one.samples:
        return "  missing: set CONSUL_TEMPLATE or put consul-template on PATH"
    return "".join(f"{value:9.1f}" for value in (one.median, one.quantile(0.95), min(one.samples), max(one.samples)))


# ---------------------------------------------------------------- sizes


def _sizes(changes: int, wanted: tuple[int, ...], locations: int | None) -> int:
    print(f"weight change -> served, {sizes.INSTANCES} instances a service, {changes} changes each; milliseconds\n")
    print(f"{'services':>9}{'ratio p50':>11}{'ratio p95':>11}{'grayctl p50':>13}{'p95':>9}{'peer p50':>10}{'p95':>9}")
    rows = []
    for one in sizes.run(changes, wanted, locations):
        rows.append(one)
        peer = one.samples.get("consul-template")
        print(f"{one.services:9}", end="")
        for ratio in (one.ratio(0.5), one.ratio(0.95)):
            print("    missing" if ratio is None else f"{ratio:11.2f}", end="")
        ours = one.samples["grayctl"]
        print(f"{sizes.quantile(ours, 0.5):13.1f}{sizes.quantile(ours, 0.95):9.1f}", end="")
        print(f"{sizes.quantile(peer, 0.5):10.1f}{sizes.quantile(peer, 0.95):9.1f}" if peer else "", flush=True)
    _save("sizes", rows, changes=changes, locations=locations)
    return 0


# ---------------------------------------------------------------- converge


def _converge(changes: int) -> int:
    print(f"one of so many services of {incremental.INSTANCES} changes, {changes} changes; milliseconds of CPU\n")
    print(f"{'services':>9}{'to files':>10}{'p95':>9}{'ratio':>7}{'converge':>10}{'p95':>9}{'ratio':>7}")
    costs = incremental.run(changes)
    for one in costs:
        to_files, whole = incremental.ratio(one, costs[0])
        print(f"{one.services:9}", end="")
        for samples, to_smallest in ((one.files, to_files), (one.whole, whole)):
            print(
                f"{statistics.median(samples):10.3f}{releases.quantile(samples, 0.95):9.3f}{to_smallest:7.2f}", end=""
            )
        print(flush=True)
    _save("converge", costs, changes=changes)
    return 0


# ---------------------------------------------------------------- churn


def _judge(samples: Path) -> int:
    """Say what a churn run came to, and draw it; returns 1 when something grew, passed its bound or was left."""
    run = msgspec.convert(msgspec.json.decode(samples.read_bytes())["results"], churn.Run)
    judged = figures(run.samples, run.keep)
    title = f"{run.seconds / 60:g} minutes of churn: {churn.SERVICES} services of about {churn.INSTANCES} instances"
    print(f"{title}\n")
    print("changed: " + ", ".join(f"{name} {count}" for name, count in sorted(run.done.items())))
    print("logged: " + ", ".join(f"{name} {count}" for name, count in sorted(run.events.items())) + "\n")
    print(f"{'':30}{'level':>10}{'rise':>9}{'allowed':>9}{'peak':>10}{'bound':>7}")
    for figure in judged:
        print(_line(figure))
    last = run.final
    seconds = run.samples[-1].at - run.samples[0].at
    print(f"\ngrayctl's CPU: {_share(run, 'cpu', seconds)}, its children's: {_share(run, 'cpu_children', seconds)}")
    print(f"at rest: {last.children} children, {last.leaving} workers shutting down, {last.pending} journal files,")
    print(f"{last.leftovers} temporary files, {len(run.unused)} objects that no generation uses")
    draw(run.samples, samples.with_suffix(".svg"), title)
    print(f"picture: {samples.with_suffix('.svg')}")
    failed = [figure.name for figure in judged if not figure.passed] + run.left
    print(f"FAILED: {', '.join(failed)}" if failed else "nothing grew, nothing passed its bound, nothing was left")
    return 1 if failed else 0


def _line(one: Figure) -> str:
    bound = "" if one.bound is None else f"{one.bound:g}"
    mark = "" if one.passed else "  <--"
    name = f"{one.name}{f', {one.unit}' if one.unit else ''}"
    return f"{name:30}{one.level:10.2f}{one.rise:9.2f}{one.allowed:9.2f}{one.peak:10.2f}{bound:>7}{mark}"


def _share(run: churn.Run, field: str, seconds: float) -> str:
    return f"{100 * (getattr(run.samples[-1], field) - getattr(run.samples[0], field)) / seconds:.1f} %"


# ---------------------------------------------------------------- flap


def _flap(seconds: int) -> int:
    rows = flap.run(seconds)
    print(f"{seconds} s of wrk for each, one of {flap.INSTANCES} instances flaps {flap.PER_SECOND} times a second\n")
    print(f"{'':22}{'flaps':>6}{'reloads':>9}{'requests':>10}{'a second':>10}", end="")
    print(f"{'5xx':>5}{'lost':>6}{'p99 ms':>8}{'late ms':>9}")
    for one in rows:
        load = one.load
        print(
            f"{one.name:22}{one.flaps:6}{one.reloads:9}{load.requests:10}{load.rate:10.0f}{load.refused:5}"
            f"{load.lost:6}{load.p99 / 1000:8.1f}{one.late * 1000:9.0f}"
        )
    ours = rows[1]
    for peer in rows[2:]:
        ratios = {
            "reloads": _ratio(ours.reloads, peer.reloads),
            "failed requests": _ratio(ours.load.failed, peer.load.failed),
            "requests a second": _ratio(ours.load.rate, peer.load.rate),
            "p99": _ratio(ours.load.p99, peer.load.p99),
        }
        print(f"\nratios grayctl / {peer.name}: {', '.join(f'{name} {ratio}' for name, ratio in ratios.items())}")
    _save("flap", rows, seconds=seconds)
    return 0


def _ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}" if theirs else f"{ours:g} to 0"


# ---------------------------------------------------------------- releases


def _releases(turns: int, seconds: int, changes: int) -> int:
    print(f"five routes and two canaries beside an upstream by hand, {turns} turns of {seconds} s each, one worker\n")
    print(f"{'backend':18}{'upstreams':>10}{'requests/s':>12}{'by hand':>9}{'ratio':>7}", end="")
    print(f"{'us of CPU':>11}{'by hand':>9}{'ratio':>7}{'failed':>8}")
    rows = []
    for one in releases.run(turns, seconds):
        rows.append(one)
        rates, costs = (
            [statistics.median(found) for found in pair]
            for pair in ((one.rates, one.plain_rates), (one.costs, one.plain_costs))
        )
        print(f"{one.backend:18}{one.upstreams:10}{rates[0]:12.0f}{rates[1]:9.0f}{one.ratio:7.3f}", end="")
        print(f"{costs[0]:11.1f}{costs[1]:9.1f}{one.ratio_of_cost:7.3f}{one.failed:8}", flush=True)
    written = releases.written(changes) if changes else []
    for name, samples in ((one.name, one.samples) for one in written):
        middle, late = statistics.median(samples), releases.quantile(samples, 0.95)
        print(f"key to served, {name}: median {middle:.1f} ms, p95 {late:.1f} ms, {len(samples)} changes")
    _save("releases", rows, written=written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
