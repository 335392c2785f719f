"""What the judges of the nginx configuration look at: values, gathered by `survey`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grayctl.advice.finding import How
from grayctl.model.naming import service_id
from grayctl.nginx.tree import Directive, Placed, Tree
from grayctl.settings import Settings
from grayctl.toml_lines import where

# What `gray_<id>` means in an argument, and ids that are grayctl's own.
GRAY = re.compile(r"\$\{?gray_(\w+)")
RESERVED = frozenset({"connection"})
_TARGET = re.compile(r"(?P<scheme>\w+://)?\$(?:\{gray_(?P<braced>\w+)\}|gray_(?P<bare>\w+))(?P<rest>.*)\Z")
_PASSES = frozenset({"proxy_pass", "grpc_pass"})


@dataclass(frozen=True, slots=True)
class Route:
    """A `proxy_pass` or `grpc_pass` to `$gray_<id>`, or the literal one that grayctl wrote into `snippets/pass`.

    Attributes:
        scheme: with `://`; empty when there is none.
        rest: what follows the variable.
    """

    placed: Placed
    id: str
    scheme: str
    rest: str

    @property
    def kind(self) -> str:
        """`proxy` or `grpc`."""
        return self.placed.directive.name.removesuffix("_pass")

    @property
    def home(self) -> Directive:
        """The location that it belongs to: an `if` or `limit_except` takes few directives."""
        return next((one for one in reversed(self.placed.above) if one.name == "location"), self.placed.above[-1])

    @property
    def spot(self) -> tuple[How, str]:
        """Where further lines for this location go."""
        if self.home is self.placed.above[-1] and not self.placed.directive.snippet:
            return How.BESIDE, self.placed.directive.where
        return How.INSIDE, self.home.where


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Something of a request decides which version or server it gets.

    Attributes:
        what: as its owner knows it, such as `services.shop.balance = "hash $http_x_user"`.
        chosen: what the client writes that decides, such as `header X-User`.
        by_address: whether the client's address decides.
        where: `FILE:LINE`.
        how, guard: the lines that take the choice from the client, and where they go; empty where it may choose.
    """

    what: str
    chosen: tuple[str, ...] = ()
    by_address: bool = False
    where: str = ""
    how: How = How.NONE
    guard: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """The configuration and what has to be known to judge it.

    Attributes:
        tree: with snippets, see `grayctl.nginx.tree.read`.
        source: name and text of the settings file; empty without one.
        published: the services that the current generation defines.
        patterned: those of them whose maps have patterns.
        listed: the services that Consul names.
        warnings: nginx's own, from `nginx -t`, and what it refused.
        addresses: host name -> IP addresses; empty where it does not resolve.
        missing: the directories named in the configuration that are not there.
        odd_files: paths that exist and are no regular file.
        unit: the text of nginx's systemd unit.
        decisions: what of a request decides, by the settings and whatever else there is.
    """

    tree: Tree
    settings: Settings
    source: tuple[str, str] = ("", "")
    published: frozenset[str] = frozenset()
    patterned: frozenset[str] = frozenset()
    listed: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    odd_files: frozenset[str] = frozenset()
    unit: str = ""
    decisions: tuple[Decision, ...] = ()

    @property
    def state_dir(self) -> Path:
        """The state directory."""
        return Path(self.settings.state_dir)

    @property
    def names(self) -> dict[str, str]:
        """Id -> service, for all that are known; a published one wins."""
        known = (*sorted(self.listed), *self.settings.watch.exact, *sorted(self.published))
        return {service_id(name): name for name in known}

    def routes(self) -> Iterator[Route]:
        """Every way into a service over HTTP and gRPC; in stream there is nothing but the variable."""
        for placed in self.tree.walk():
            one = placed.directive
            if not placed.inside("http") or one.name not in _PASSES:
                continue
            if found := _TARGET.match(one.first):
                name = (found["braced"] or found["bare"]).lower()
                yield Route(placed, name, found["scheme"] or "", found["rest"])
            elif one.snippet:
                scheme, sign, _ = one.first.partition("://")
                yield Route(placed, service_id(one.slug), scheme + sign, "")

    def setting(self, key: str) -> str:
        """Where a setting stands, as `FILE:LINE`."""
        return setting_place(self.source, key)


def setting_place(source: tuple[str, str], key: str) -> str:
    """Where a setting stands in a settings file (name, text), as `FILE:LINE`; the file alone where it does not."""
    name, text = source
    return where(name, text, key).removesuffix(f": {key}") if name else ""


def in_http(view: View, name: str, text: str) -> tuple[How, str, str]:
    """How to set a directive that http takes once: how, where, the line."""
    http = view.tree.http
    if http is None:
        return How.APPEND, view.tree.main.file, f"http {{ {text} }}"
    given = http.own(name)
    return (How.REPLACE, given[-1].where, text) if given else (How.INSIDE, http.where, text)


def in_main(view: View, name: str, text: str) -> tuple[How, str, str]:
    """How to set a directive that the main context takes once: how, where, the line."""
    given = view.tree.main.own(name)
    return (How.REPLACE, given[-1].where, text) if given else (How.APPEND, view.tree.main.file, text)
