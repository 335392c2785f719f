"""`grayctl release diff`."""

from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grayctl.cli.common import asked, json_option, print_json, settings_of
from grayctl.errors import GrayctlError

if TYPE_CHECKING:
    from grayctl.consul.client import ConsulClient


@click.command()
@click.argument("service")
@click.argument("one")
@click.argument("other", default="")
@json_option
@click.pass_context
def diff(ctx: click.Context, service: str, one: str, other: str, as_json: bool) -> None:
    """Say what changes for whom between two policies of SERVICE: version numbers of the history, or files.

    A single number is compared with what stands now; what stands now with a single file.

    \b
    Examples:
      grayctl release diff shop shop.yaml
      grayctl release diff shop 41
      grayctl release diff shop 41 42
    """  # noqa: D301 -- \b is click's mark for text that must not be wrapped
    names = (one, other) if other else (one, "") if one.isdigit() else ("", one)

    async def look(client: "ConsulClient") -> list[bytes]:
        return [await _text(client, service, name) for name in names]

    before, after = asked(settings_of(ctx), look)
    sentences = _sentences(service, before, after, names)
    old, new = (text.decode(errors="replace").splitlines() for text in (before, after))
    lines = list(unified_diff(old, new, _title(service, names[0]), _title(service, names[1]), lineterm=""))
    if as_json:
        print_json({"service": service, "changes": sentences, "diff": lines})
        return
    for sentence in sentences or ("nothing changes for anybody",):
        click.echo(sentence)
    for line in lines:
        click.secho(line, fg={"+": "green", "-": "red"}.get(line[:1]))


def _title(service: str, name: str) -> str:
    return f"{service} {f'version {name}' if name.isdigit() else name or 'now'}"


async def _text(client: "ConsulClient", service: str, name: str) -> bytes:
    """A version's text, a file's, or what stands where there is no name; empty where there was no policy."""
    from grayctl.consul.releases import get_release, version

    if name.isdigit():
        found = await version(client, service, int(name))
        if found is None:
            raise GrayctlError(
                f"{service}: version {name} is kept no more, or never was: `grayctl release history {service}`"
            )
        return found.text.encode()
    if name:
        try:
            return Path(name).read_bytes()  # noqa: ASYNC240 -- a command has nothing else to do meanwhile
        except OSError as error:
            raise click.UsageError(f"{name}: cannot be read: {error.strerror}") from error
    stored = await get_release(client, service)
    return stored.policy.value if stored.policy else b""


def _sentences(service: str, before: bytes, after: bytes, names: tuple[str, str]) -> tuple[str, ...]:
    """What would change if one were applied after the other.

    Raises:
        ReleaseError: one may not be followed.
    """
    from grayctl.model.release import InForce, Live
    from grayctl.policy.difference import difference
    from grayctl.policy.document import read_release
    from grayctl.policy.live import follow, revision_of

    found: list[InForce | None] = []
    live: Live | None = None
    for text, name in ((before, names[0]), (after, names[1])):
        if not text:
            found.append(None)
            continue
        release = read_release(text, name or "what stands now", service=service)
        live = follow(release, revision_of(text), live, lambda: "same")
        found.append(InForce(release, live))
    if found == [None, None]:
        return ()
    return difference(*found)
