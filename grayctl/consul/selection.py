"""What is watched: which services, which keys, and which host names stand in a registration."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from grayctl.consul.client import Right
from grayctl.model.catalog import Entry, Registration
from grayctl.policy.admission import host_of, is_host_name
from grayctl.settings import WatchSettings

# Each has a long poll of its own: one on the whole prefix would carry all history and every node's writes (FACTS).
KV_NAMES = ("releases", "staged", "live", "lists", "drains", "freeze")
_SINGLE_KEYS = frozenset({"freeze"})


def wanted_services(listed: Mapping[str, Iterable[str]], watch: WatchSettings) -> frozenset[str]:
    """The services to watch: exact names always; of those `listed` (name -> tags), by glob or by tag."""
    exact = frozenset(watch.exact)
    globs = [one for one in watch.services if one not in exact]
    return exact | {
        name for name, tags in listed.items() if watch.tag in tags or any(fnmatchcase(name, glob) for glob in globs)
    }


def kv_query(prefix: str, name: str) -> str:
    """The prefix to ask Consul for."""
    return f"{prefix}/{name}" if name in _SINGLE_KEYS else f"{prefix}/{name}/"


def kv_entries(prefix: str, name: str, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """The entries meant: of a single key only that one, since `freeze` also finds `freezer`."""
    key = kv_query(prefix, name)
    return tuple(entry for entry in entries if entry.key == key) if name in _SINGLE_KEYS else entries


def host_names(registrations: Iterable[Registration]) -> frozenset[str]:
    """The host names that stand where an address is expected."""
    return frozenset(host for one in registrations if is_host_name(host := host_of(one)))


def service_rights(service: str, registrations: Iterable[Registration]) -> tuple[Right, ...]:
    """What a token must be allowed to read to see these registrations: Consul filters by service and by node."""
    nodes = sorted({one.node for one in registrations})
    return (Right("service", service), *(Right("node", node) for node in nodes))


def key_rights(entries: Iterable[Entry]) -> tuple[Right, ...]:
    """What a token must be allowed to read to see these entries."""
    return tuple(Right("key", entry.key) for entry in entries)
