"""What Consul's KV says about drained instances. Pure."""

from collections.abc import Iterable

import msgspec

from grayctl.model.catalog import Entry
from grayctl.model.drain import Drains

Drained = tuple[dict[str, frozenset[str]], dict[str, str]]


def decode_drains(entry: Entry) -> Drains | str:
    """One service's drains; a text says what is wrong and what to do."""
    try:
        return msgspec.json.decode(entry.value, type=Drains)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        return f"{entry.key}: these are no drains: {error}. Delete the key, then drain again"


def drained(entries: Iterable[Entry]) -> Drained:
    """The drained instances' ids by service; and by service why its drains cannot be read, and are not followed."""
    found: dict[str, frozenset[str]] = {}
    problems: dict[str, str] = {}
    for entry in entries:
        service, drains = entry.key.rpartition("/")[2], decode_drains(entry)
        if isinstance(drains, str):
            problems[service] = drains
        else:
            found[service] = frozenset(drains.instances)
    return found, problems
