"""`python -m tests.bench [--quick] [SECTION]`: all sections, or one of them. See docs/benchmarks.md."""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tests.bench import churn_report
from tests.bench.machines import ConsulTemplate
from tests.bench.section import Report, Section, Value
from tests.bench.sections import SECTIONS
from tests.support.consul import consul_binary
from tests.support.nginx import BINARY

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[2] / "docs"


class Ran(msgspec.Struct, frozen=True):
    """A section as the JSON file has it: the load averages before and after, and what was measured with what."""

    options: dict[str, Value]
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]
    seconds: float
    results: object
    failed: list[str]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the short form of all sections, about 25 minutes")
    parser.add_argument("--docs", action="store_true", help="write the plots to docs/ instead of beside the results")
    commands = parser.add_subparsers(dest="command", metavar="SECTION")
    for section in SECTIONS:
        _add(commands.add_parser(section.name, help=section.help, description=section.help), section)
    one = commands.add_parser("judge", help="judge the samples of a churn run again")
    one.add_argument("samples", type=Path, help="the JSON file that the run has written")
    options = parser.parse_args()
    if options.command == "judge":
        return _print(churn_report.again(options.samples), options.samples, DOCS if options.docs else None)
    chosen = [section for section in SECTIONS if options.command in {None, section.name}]
    return _run(chosen, {section.name: _values(section, options) for section in chosen}, options)


def _add(parser: argparse.ArgumentParser, section: Section) -> None:
    parser.add_argument("--quick", action="store_true", default=argparse.SUPPRESS, help="its short form")
    parser.add_argument("--docs", action="store_true", default=argparse.SUPPRESS, help="write the plots to docs/")
    for name, option in section.options.items():
        several = isinstance(option.full, Sequence)
        kind = type(option.full[0] if isinstance(option.full, Sequence) else option.full or 0)
        says = f"{option.help} (default {_shown(option.full)}, with --quick {_shown(option.quick)})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, nargs="+" if several else None, help=says)


def _shown(value: Value) -> str:
    return " ".join(map(str, value)) if isinstance(value, Sequence) else "none" if value is None else f"{value:g}"


def _values(section: Section, options: argparse.Namespace) -> dict[str, Value]:
    form = {name: one.quick if options.quick else one.full for name, one in section.options.items()}
    said = {name: getattr(options, name, None) for name in section.options}
    return form | {name: value for name, value in said.items() if value is not None}


def _run(chosen: Sequence[Section], values: Mapping[str, dict[str, Value]], options: argparse.Namespace) -> int:
    """Run the sections one after another; the file is written anew after each, so that a broken run keeps the rest."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{options.command or 'all'}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    head = {"machine": platform.platform(), "cores": os.cpu_count(), "versions": _versions(), "quick": options.quick}
    print(
        f"{head['machine']}, {head['cores']} cores; " + ", ".join(f"{one} {said}" for one, said in _versions().items())
    )
    ran: dict[str, Ran] = {}
    codes = []
    for section in chosen:
        print(f"\n## {section.name}: {section.help}\n", flush=True)
        before, began = os.getloadavg(), time.monotonic()
        report = _report(section, values[section.name])
        seconds, after = time.monotonic() - began, os.getloadavg()
        ran[section.name] = Ran(values[section.name], before, after, seconds, report.results, list(report.failed))
        file.write_bytes(msgspec.json.encode(head | {"sections": ran}))
        codes.append(_print(report, file, DOCS if options.docs else None))
        load = f"load average {before[0]:.1f} before, {after[0]:.1f} after"
        print(f"({time.strftime('%Y-%m-%d %H:%M')}; {seconds:.0f} s; {load})", flush=True)
    print(f"\nsamples: {file}")
    return max(codes)


def _report(section: Section, values: Mapping[str, Value]) -> Report:
    """What the section says; one that breaks has failed, and the others still run."""
    try:
        return section.run(**values)
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is told and it fails the run
        traceback.print_exc()
        return Report("", None, [f"{section.name} broke: {error}"])


def _print(report: Report, file: Path, docs: Path | None) -> int:
    print(report.text)
    for name, draw in report.plots.items():
        path = docs / name if docs else file.with_name(f"{file.stem}-{name}")
        try:
            draw(path)
        except ModuleNotFoundError as error:
            print(f"\nno {name}: {error.name} is not installed; pip install 'grayctl[bench]'")
        else:
            print(f"\nplot: {path}")
    print(f"\nFAILED: {'; '.join(report.failed)}" if report.failed else "")
    return 1 if report.failed else 0


def _versions() -> dict[str, str]:
    """What is compared, in its version; what is missing, as missing."""
    programs = {
        "nginx": [BINARY, "-v"],
        "consul": [consul_binary(), "version"],
        "consul-template": [ConsulTemplate.binary() or "", "-version"],
        "wrk": ["wrk", "-v"],
    }
    return {"Python": platform.python_version()} | {name: _version(*command) for name, command in programs.items()}


def _version(program: str, option: str) -> str:
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return "missing"
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return found.group() if found else "unknown"


if __name__ == "__main__":
    sys.exit(main())
