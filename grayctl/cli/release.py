"""`grayctl release`: one file a command, imported when it runs."""

import click

from grayctl.cli.lazy import LazyGroup

_COMMANDS = {
    "lint": ("release_lint", "Say what is wrong with policies; needs no Consul."),
    "apply": ("release_apply", "Put policies into force, after showing what changes for whom."),
    "get": ("release_read", "Print a policy as it was written."),
    "list": ("release_read:list_", "Print every release."),
    "diff": ("release_diff", "Say what changes for whom between two policies."),
    "history": ("release_read", "Print the versions of a policy that are kept."),
    "rollback": ("release_back", "Put an old version into force again."),
    "delete": ("release_back", "End a release."),
    "widen": ("release_stage", "Let more nodes follow what is staged."),
    "promote": ("release_stage", "Let all nodes follow what is staged."),
    "discard": ("release_stage", "Take back what is staged."),
    "schema": ("release_schema", "Print the JSON Schema of a policy, for editors."),
}


@click.group(cls=LazyGroup, table=_COMMANDS)
def release() -> None:
    """The policies: which version gets which requests.

    \b
    Examples:
      grayctl release lint releases/*.yaml
      grayctl release apply shop.yaml --reason 'v2 to 10%'
      grayctl release rollback shop 41
      grayctl release apply shop.yaml --scope percent=10
      grayctl release schema > release.schema.json
    """  # noqa: D301 -- \b is click's mark for text that must not be wrapped
