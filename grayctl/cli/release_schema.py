"""`grayctl release schema`: what an editor needs to complete and check a policy."""

import click

from grayctl.cli.common import print_json


@click.command()
def schema() -> None:
    """Print the JSON Schema of a policy.

    It is made from the types that grayctl reads a policy with. An editor with YAML support takes it from a first line
    `# yaml-language-server: $schema=release.schema.json`.

    \b
    Example:
      grayctl release schema > release.schema.json
    """  # noqa: D301 -- \b is click's mark for text that must not be wrapped
    from grayctl.policy import wire

    print_json(wire.schema())
