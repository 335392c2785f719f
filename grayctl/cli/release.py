"""`grayctl release`: one file a command, imported when it runs."""

import click

from grayctl.cli.lazy import LazyGroup

_COMMANDS = {
    "lint": ("release_lint", "Say what is wrong with policies; needs no Consul."),
    "schema": ("release_schema", "Print the JSON Schema of a policy, for editors."),
}


@click.group(cls=LazyGroup, table=_COMMANDS)
def release() -> None:
    """The policies: which version gets which requests.

    \b
    Examples:
      grayctl release lint releases/*.yaml
      grayctl release schema > release.schema.json
    """  # noqa: D301 -- \b is click's mark for text that must not be wrapped
