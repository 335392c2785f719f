"""`grayctl completion`."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL.

    Example: grayctl completion bash > /etc/bash_completion.d/grayctl
    """
    from grayctl.cli import cli

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this click knows no completion for {shell}")
    click.echo(kind(cli, {}, "grayctl", "_GRAYCTL_COMPLETE").source())
