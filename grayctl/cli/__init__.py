"""The command line: one file a command group, loaded only when its command runs, so that --help is quick."""

import os
import sys

import click

from grayctl import __version__
from grayctl.cli.lazy import LazyGroup
from grayctl.errors import GrayctlError

# command -> (module, one line for --help): the module is imported when the command runs
_COMMANDS = {
    "init": ("init", "Make the state directory, generation 0, and print the lines to add."),
    "run": ("run", "The daemon: watch Consul and keep nginx right."),
    "render": ("render", "Converge once now, or preview offline."),
    "check": ("check", "Say what is wrong with settings, Consul, nginx, and what to do."),
    "status": ("status", "Versions, instances, shares, generation, quarantine, and why."),
    "list": ("lists:lists", "Write and read lists of users and addresses."),
    "explain": ("explain", "Which version a request gets, and why."),
    "generation": ("generation", "List, show, compare and roll back generations."),
    "freeze": ("freeze", "Stop every change, on this node or the fleet."),
    "unfreeze": ("freeze", "Let changes through again."),
    "drain": ("drain", "Take an instance out by hand, on every node."),
    "undrain": ("drain", "Let a drained instance serve again."),
    "guard": ("guard", "Let go what the guard keeps in use."),
    "forget": ("forget", "End the name of a service that nothing needs any more."),
    "release": ("release", "Policies: lint, apply, compare, roll back."),
    "audit": ("audit", "Who did what to which release, when and why."),
    "completion": ("completion", "Print the completion script of a shell."),
}


@click.group(
    cls=LazyGroup,
    table=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 refused or failed, 2 usage, 3 rolled back, 4 unreachable.",
)
@click.option("--config", type=click.Path(dir_okay=False), help="Settings file [env GRAYCTL_CONFIG].")
@click.version_option(__version__, prog_name="grayctl")
@click.pass_context
def cli(ctx: click.Context, config: str | None) -> None:
    """Progressive delivery for Nginx and Consul.

    \b
    Examples:
      grayctl init --service shop      prepare a machine
      grayctl run                      the daemon, under systemd
      grayctl status --watch           what is served now
      grayctl freeze --reason 'peak'   touch nothing
    """  # noqa: D301 -- \b is click's mark for text that must not be wrapped
    ctx.obj = config
    if os.environ.get("NO_COLOR"):  # click does not look, rich does
        ctx.color = False


def main() -> None:
    """Entry point: a GrayctlError becomes one message and its exit code, never a traceback."""
    try:
        cli(prog_name="grayctl")
    except GrayctlError as error:
        click.echo(f"grayctl: {error}", err=True)
        sys.exit(error.exit_code)
