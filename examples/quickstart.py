"""The story of the quickstart, told in the terminal. Started by quickstart.sh, which sets up what it needs."""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from lab import Instance, Lab, Trouble, opened, shares
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

SAMPLE = 400  # answers that a figure of the story is taken from
GLANCE = 100  # answers that tell whether a change has arrived
TOLERANCE = 0.05  # between the share that was wanted and the one that was counted
ROLLED_BACK = 3  # grayctl's exit code
BAR = 40
COLOURS = {"v1": "green", "v2": "magenta"}

BROKEN_TEMPLATE = "no_such_directive on;\n"
# nginx -t says yes, since it passes over a port that is taken; the reload then fails, in silence.
UNTAKEABLE_TEMPLATE = '{{% include "service.conf.j2" %}}\nserver {{ listen 127.0.0.1:{port}; }}\n'

POLICY = """\
service: shop
stable: v1
identity: [{header: X-User-ID}, client_ip]
traffic: {v2: 10}
routes:
  - {name: testers, match: {header: {X-Version: v2}}, to: v2}
"""
PROMOTED = """\
service: shop
stable: v2
identity: [{header: X-User-ID}, client_ip]
"""


class Story:
    """One telling: `tell` raises Trouble where a fact is not as it should be."""

    def __init__(self, lab: Lab, console: Console) -> None:
        self.lab = lab
        self.console = console
        self.template = lab.templates / "services" / "shop.conf.j2"
        self.instances: list[Instance] = []  # those that run
        self.weights: dict[str, int] = {}  # id -> weight, of those that shall be served
        self.shares: dict[str, float] = {}  # version -> its share, once a release decides
        self.began = time.monotonic()
        self.seen: dict[str, Any] = {}
        self._number = 0

    async def tell(self) -> None:
        await self.beginning()
        await self.coming_and_going()
        await self.broken_template()
        await self.silent_failure()
        await self.release()

    async def beginning(self) -> None:
        lab = self.lab
        self.say("starting Consul, nginx, grayctl and the shop in {}", lab.base)
        await lab.start_consul()
        await lab.start_nginx()
        await lab.start_grayctl()
        for version, weight in [("v1", 10)] * 4 + [("v2", 5)] * 2:
            await self.add(version, weight)
        await lab.until(lambda: lab.answers(lab.url, 200), "the shop is open")
        lab.start_traffic()
        self.title("Six instances in two versions: four of v1 with weight 10, two of v2 with weight 5.")
        await self.served()

    async def coming_and_going(self) -> None:
        lab = self.lab
        self.title("A third instance of v2 comes.")
        newcomer = await self.add("v2", 5)
        await self.served()

        self.title("Its weight goes from 5 to 25, while it runs.")
        await lab.put(f"{newcomer.url}/weight", "25")
        self.weights[newcomer.id] = 25
        await self.served()

        self.title("An instance of v1 fails its health check.")
        patient = self.instances[0]
        await lab.put(f"{patient.url}/health", "failing")
        weight = self.weights.pop(patient.id)
        await self.served()

        self.title("It is well again; another of v1 is stopped, and takes leave of Consul first.")
        await lab.put(f"{patient.url}/health", "passing")
        self.weights[patient.id] = weight
        leaver = self.instances.pop(1)
        del self.weights[leaver.id]
        await lab.end_instance(leaver)
        await self.served()

    async def broken_template(self) -> None:
        lab = self.lab
        self.title("Somebody breaks the shop's template: a directive that nginx does not know.")
        before, served_before = await self.generation(), dict(self.weights)
        self.template.parent.mkdir()
        self.template.write_text(BROKEN_TEMPLATE, encoding="utf-8")
        await self.render()
        await lab.until(self.quarantine, "the shop is in quarantine")
        newcomer = await self.add("v2", 10)
        await lab.until(self.all_are_known, f"grayctl knows of {newcomer.id}")
        self.say("    meanwhile {} comes; it has to wait, the last good state is served", newcomer.id)
        await self.figures(served_before)
        self.demand(await self.generation() == before, "the generation must not change while the template is broken")

        self.title("The template is mended.")
        self.template.unlink()
        await self.render()
        await self.served()

    async def silent_failure(self) -> None:
        lab = self.lab
        self.title("A template that `nginx -t` accepts and nginx cannot take: it listens on somebody else's port.")
        before = await self.generation()
        with socket.create_server(("127.0.0.1", lab.taken_port)):
            self.template.write_text(UNTAKEABLE_TEMPLATE.format(port=lab.taken_port), encoding="utf-8")
            code = await self.render()
            self.demand(code == ROLLED_BACK, f"`grayctl render` must end with {ROLLED_BACK} (rolled back), not {code}")
            await self.figures(self.weights)
            self.demand(await self.generation() == before, "the last good generation must be back")

            self.title("The template is mended.")  # before the port is free, or grayctl might try the template again
            self.template.unlink()
            await self.render()
        await self.served()

    async def release(self) -> None:
        lab = self.lab
        self.title("A release: v2 for a tenth of the users, always the same ones, whatever the instances weigh.")
        policy = lab.base / "shop-release.yaml"
        policy.write_text(POLICY, encoding="utf-8")
        await self.grayctl("release", "apply", str(policy), "--yes", "--reason", "the quickstart")
        self.shares = {"v1": 0.9, "v2": 0.1}
        await self.served()
        said = await self.grayctl("explain", "shop", "--header", "X-User-ID: visitor-7")
        self.demand("version v1" in said or "version v2" in said, "explain must name a version")

        self.title("A tester asks for v2, and gets it.")
        said = await self.grayctl("explain", "shop", "--header", "X-Version: v2")
        self.demand("version v2" in said, "explain must say v2")
        answer = await lab.visit({"X-Version": "v2"})
        self.say("    nginx answers with {}", answer)
        self.demand(answer == "v2", f"nginx must answer with v2, not {answer}")

        self.title("v2 is good: it becomes stable.")
        policy.write_text(PROMOTED, encoding="utf-8")
        await self.grayctl("release", "apply", str(policy), "--yes", "--reason", "v2 is good")
        self.shares = {"v1": 0.0, "v2": 1.0}
        await self.served()

    # ------------------------------------------------------------ steps

    async def grayctl(self, *arguments: str) -> str:
        """Run a command that must succeed, and show it."""
        code, said = await self.lab.grayctl(*arguments)
        self.say("    $ grayctl {}", " ".join(f"'{one}'" if " " in one else one for one in arguments))
        self.say("    {}", said.strip().replace("\n", "\n    "))
        self.demand(code == 0, f"`grayctl {arguments[0]}` must end with 0, not {code}")
        return said

    async def add(self, version: str, weight: int) -> Instance:
        instance = await self.lab.start_instance(version, weight)
        self.instances.append(instance)
        self.weights[instance.id] = weight
        return instance

    async def render(self) -> int:
        code, said = await self.lab.grayctl("render")
        self.say("    $ grayctl render")
        self.say("    {} (exit code {})", said.replace("\n", "\n    "), code)
        return code

    async def served(self) -> None:
        """Wait until every visitor is answered by the instances in `weights`, then take the figures."""

        async def settled() -> bool:
            answers = self.lab.traffic.since(self.began)[-GLANCE:]
            return len(answers) == GLANCE and not self.deviations(answers, self.weights)

        self.began = time.monotonic()
        await self.lab.until(settled, f"visitors are served by {', '.join(sorted(self.weights))}")
        await self.figures(self.weights)

    async def figures(self, weights: dict[str, int]) -> None:
        """Count `SAMPLE` answers from now on, and hold them against the weights."""
        self.began = time.monotonic()

        async def enough() -> list[tuple[str, str]]:
            answers = self.lab.traffic.since(self.began)
            return answers if len(answers) >= SAMPLE else []

        answers = await self.lab.until(enough, f"{SAMPLE} answers are counted")
        counted, wanted = shares(answers), self.wanted(weights)
        for version in sorted(wanted):
            self.say("    {}  {:>5.1%} served, {:>5.1%} wanted", version, counted.get(version, 0.0), wanted[version])
        traffic = self.lab.traffic
        number = await self.generation()
        self.say("    generation {}; {} requests until now, {} failed", number, traffic.requests, traffic.failed)
        self.demand(not (wrong := self.deviations(answers, weights)), "; ".join(wrong))

    def wanted(self, weights: dict[str, int]) -> dict[str, float]:
        """version -> its share: the release's where there is one, else by weight."""
        if self.shares:
            return self.shares
        versions: dict[str, float] = {}
        for one in self.instances:
            versions[one.version] = versions.get(one.version, 0.0) + weights.get(one.id, 0) / sum(weights.values())
        return versions

    def deviations(self, answers: list[tuple[str, str]], weights: dict[str, int]) -> list[str]:
        """What is not as the weights say, in words; empty when all is well."""
        strangers = {instance for _, instance in answers} - set(weights)
        wrong = [f"{instance} must not be served" for instance in sorted(strangers)]
        counted = shares(answers)
        for version, want in self.wanted(weights).items():
            got = counted.get(version, 0.0)
            if abs(want - got) > TOLERANCE:
                wrong.append(f"{version} must get {want:.1%}, not {got:.1%}")
        return wrong

    async def status(self) -> dict[str, Any]:
        self.seen = await self.lab.status() or self.seen
        return self.seen

    async def shop(self) -> dict[str, Any]:
        return next((one for one in (await self.status())["services"] if one["service"] == "shop"), {})

    async def quarantine(self) -> str:
        return str((await self.shop())["quarantine"])

    async def all_are_known(self) -> bool:
        return int((await self.shop())["registered"]) == len(self.instances)

    async def generation(self) -> int:
        return int((await self.status())["generation"]["number"])

    # ------------------------------------------------------------ words

    def title(self, text: str) -> None:
        self._number += 1
        self.console.print(f"\n[bold]{self._number}. {escape(text)}[/bold]", soft_wrap=True)

    def say(self, form: str, *values: object, **named: object) -> None:
        self.console.print(Text(form.format(*values, **named)), soft_wrap=True)

    def demand(self, fact: bool, words: str) -> None:  # noqa: FBT001 -- reads like assert
        if not fact:
            raise Trouble(words)


# ---------------------------------------------------------------- the live view


async def draw(story: Story, live: Live) -> None:
    while True:
        await story.status()
        live.update(view(story), refresh=True)
        await asyncio.sleep(0.25)


def view(story: Story) -> Group:
    """What grayctl wants, and what visitors got over the last answers."""
    lab, seen = story.lab, story.seen
    answers = lab.traffic.since(0.0)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("version")
    for heading in ("instances", "weight", "wanted"):
        table.add_column(heading, justify="right")
    table.add_column(f"served, last {len(answers)} answers", min_width=BAR + 8)
    shop: dict[str, Any] = next((one for one in seen.get("services", ()) if one["service"] == "shop"), {})
    counted = shares(answers)
    for version, wanted in shop.get("versions", {}).items():
        servers = [one for one in shop["servers"] if one["version"] == version]
        share = counted.get(version, 0.0)
        bar = Text("█" * round(share * BAR), style=COLOURS.get(version, "cyan")).append(f" {share:.1%}")
        weight = sum(one["weight"] for one in servers)
        table.add_row(version, str(len(servers)), str(weight), f"{wanted:.1%}", bar)
    number = (seen.get("generation") or {}).get("number", "-")
    line = f"generation {number}   {lab.traffic.requests} requests, {lab.traffic.failed} failed   {lab.url}"
    return Group(Text(), table, Text(line, style="dim"))


@contextlib.asynccontextmanager
async def shown(story: Story) -> AsyncIterator[None]:
    """The live view under the story's lines; nothing where the output is no terminal."""
    if not story.console.is_terminal:
        yield
        return
    with Live(console=story.console, auto_refresh=False, transient=True) as live:
        drawing = asyncio.create_task(draw(story, live))
        try:
            yield
        finally:
            drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drawing


# ---------------------------------------------------------------- begin and end

GOODBYE = """
Everything goes on until Ctrl-C. In another terminal:

  export GRAYCTL_CONFIG={lab.settings_file}
  curl {lab.url}
  {grayctl} status --watch
  {grayctl} generation list
  curl -X PUT -d 50 {instance.url}/weight          # {instance.id} gets more
  curl -X PUT -d failing {instance.url}/health     # and nothing
  curl -s http://127.0.0.1:{lab.metrics}/metrics
  less {lab.base}/grayctl.log
"""


async def run(base: Path, console: Console, told: asyncio.Event, *, once: bool) -> None:
    async with opened(base) as lab:
        story = Story(lab, console)
        async with shown(story):
            await story.tell()
            told.set()
            if once:
                return
            grayctl = Path(sys.executable).with_name("grayctl")
            story.say(GOODBYE, lab=lab, grayctl=grayctl, instance=story.instances[-1])
            while True:
                lab.demand_alive()
                await asyncio.sleep(0.5)


def make_base() -> Path:
    base = Path(tempfile.mkdtemp(prefix="grayctl-quickstart-"))
    base.chmod(0o755)  # nginx's workers may be of another user
    return base


def clear(base: Path) -> None:
    shutil.rmtree(base)
    with contextlib.suppress(OSError):  # Debian's consul makes this whenever it is started, and leaves it empty
        Path("/tmp/consul-test").rmdir()  # noqa: S108 -- its name, not ours


async def main() -> int:
    parser = argparse.ArgumentParser(prog="quickstart.sh", description="grayctl, shown on a small shop")
    parser.add_argument("--once", action="store_true", help="tell the story and end, instead of going on until Ctrl-C")
    options = parser.parse_args()
    console = Console(highlight=False)
    told = asyncio.Event()
    ended_by: list[signal.Signals] = []
    telling: asyncio.Task[None] | None = None

    def end(number: signal.Signals) -> None:
        ended_by.append(number)
        if telling is not None and len(ended_by) == 1:  # once: what runs is being ended already
            telling.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    # quickstart.sh asked for SIGTERM when our parent dies; it may have died before that.
    if os.environ.get("QUICKSTART_PARENT") not in {None, str(os.getppid())}:
        return 128 + signal.SIGTERM
    base = make_base()
    try:
        telling = asyncio.create_task(run(base, console, told, once=options.once))
        await telling
    except Trouble as trouble:
        console.print(Text(f"\nquickstart: {trouble}"), style="red", soft_wrap=True)
        return 1
    except asyncio.CancelledError:
        return 0 if told.is_set() and ended_by[0] == signal.SIGINT else 128 + ended_by[0]
    finally:
        clear(base)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
