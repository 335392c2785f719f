"""Decisions that rest on what a client may choose, or on an address that may be the proxy's."""

import re
from collections.abc import Callable, Iterator

from grayctl.advice.finding import Finding, How, Level, Rule
from grayctl.advice.view import Decision, View, setting_place
from grayctl.settings import Settings
from grayctl.toml_lines import quoted

CLIENT_DECIDES = Rule(
    "client-decides",
    Level.WARNING,
    "decisions",
    "whoever writes it into a request chooses where the request goes: to a version that is not for everybody, or all "
    "to one server",
)
NO_REALIP = Rule(
    "client-ip-without-realip",
    Level.WARNING,
    "decisions",
    "behind a proxy every client has the proxy's address, and so the same decision",
)

_CLIENTS_OWN = re.compile(r"\$\{?(?P<kind>http|cookie|arg)_(?P<name>\w+)")
_WORDS = {"http": "header", "cookie": "cookie", "arg": "argument"}
_ADDRESS = re.compile(r"\$\{?(?:binary_)?remote_addr\b")


def chosen_by(key: str) -> tuple[str, ...]:
    """What the client writes of the key of a balance: `header x-user`, `cookie uid`, `argument q`."""
    return tuple(
        f"{_WORDS[found['kind']]} {found['name'].replace('_', '-') if found['kind'] == 'http' else found['name']}"
        for found in _CLIENTS_OWN.finditer(key)
    )


def is_address(key: str) -> bool:
    """Whether the key of a balance has the client's address in it."""
    return _ADDRESS.search(key) is not None


def from_settings(settings: Settings, source: tuple[str, str]) -> Iterator[Decision]:
    """What the settings let decide: the key of a service's balance.

    Args:
        settings: in force.
        source: name and text of the settings file; empty without one.
    """
    for name, service in settings.services.items():
        key = f"services.{quoted(name)}.balance"
        yield Decision(
            what=f'{key} = "{service.balance}"',
            chosen=chosen_by(service.balance),
            by_address=service.balance == "ip_hash" or is_address(service.balance),
            where=setting_place(source, key),
            how=How.SETTINGS,
            guard=f'[services.{quoted(name)}]\nbalance = "hash $remote_addr"',
        )


def by_client(view: View) -> Iterator[Finding]:
    """Headers, cookies and arguments that decide, and whose choice should not be everybody's."""
    for one in view.decisions:
        if one.chosen and one.guard:
            what = f"{one.what}: the client chooses {', '.join(one.chosen)}"
            yield CLIENT_DECIDES.found(what, how=one.how, advice=one.guard, where=one.where)


def by_address(view: View) -> Iterator[Finding]:
    """The client's address decides, and nginx takes it from the connection."""
    http = view.tree.http
    given = [one.what for one in view.decisions if one.by_address]
    behind = any(placed.directive.name == "set_real_ip_from" for placed in view.tree.walk() if placed.inside("http"))
    if given and not behind and http is not None:
        yield NO_REALIP.found(
            f"{', '.join(given)} without set_real_ip_from in http: name your proxy's address in the line; "
            "with no proxy in front the line changes nothing",
            how=How.INSIDE,
            advice="set_real_ip_from 127.0.0.1;\nreal_ip_header X-Forwarded-For;\nreal_ip_recursive on;",
            where=http.where,
        )


JUDGES: tuple[Callable[[View], Iterator[Finding]], ...] = (by_client, by_address)
