"""What each policy in examples/releases promises: requests, and who answers them by which route.

A port that a recipe names stands for one of the test's own: 8080 is where people come in, 8081 the preview.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.releases.oracle import AGENTS

FOLDER = Path(__file__).parents[2] / "examples/releases"
EDGE, PREVIEW = 8080, 8081


@dataclass(frozen=True)
class Ask:
    """A request; `wanted` is "version route", or the status of a refusal."""

    wanted: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "/"
    method: str = "GET"
    address: str = "127.0.0.1"
    port: int = EDGE


@dataclass(frozen=True)
class Share:
    """How requests are spread over users: "version route" -> the part of them."""

    wanted: Mapping[str, float]
    user: Callable[[int], Ask]


@dataclass(frozen=True)
class Recipe:
    """One file.

    Attributes:
        asks: requests with one right answer.
        shares: requests of many users.
        lists: name -> entries, where the recipe asks for one.
        sticky: a user who comes again gets the same version.
        weights: version -> the weight of its instance.
    """

    asks: tuple[Ask, ...] = ()
    shares: tuple[Share, ...] = ()
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sticky: bool = True
    weights: Mapping[str, int] = field(default_factory=dict)


def _header(name: str, *pairs: tuple[str, str], **more: str) -> tuple[Ask, ...]:
    """One request for each value of a header: value, and what is wanted."""
    return tuple(Ask(wanted, {name: value, **more}) for value, wanted in pairs)


def _agent(device: str) -> str:
    return next(agent for agent, devices in AGENTS.items() if devices == set(device.split(",")))


def _user(user: int) -> Ask:
    return Ask(headers={"X-User-ID": f"user-{user}"})


def _address(user: int) -> Ask:
    return Ask(address=f"10.7.{user // 250}.{user % 250}")


def _everything() -> Recipe:
    vip = {"X-User-Tags": "new, vip", "User-Agent": _agent("ios,mobile")}
    page = {"Host": "shop.example.com", "Cookie": "uid=7"}
    target = "/static/a.png?theme=dark-blue"
    grown_up = {"X-User-ID": "user-1", "X-Age": "019", "X-City": "beijing"}
    return Recipe(
        asks=(
            Ask("v2 explicit", {"X-Release-Version": "v2"}, address="10.4.4.4"),
            Ask("v1 explicit", {"X-Release-Version": "never"}, address="10.4.4.4"),
            Ask("v1 stable", {"X-Release-Version": "v3"}, address="10.4.4.4"),
            Ask("v2 testers", {"X-Release-Version": "v2"}, address="192.0.2.4"),
            Ask("v2 beta", {"X-User-ID": "ann"}, address="192.0.2.4"),
            Ask("v1 stable", {"X-User-ID": "Ann"}, address="192.0.2.4"),
            Ask("v2 beta", address="10.9.1.1"),
            Ask("v2 pages", page, target),
            Ask("v2 pages", page, target, "HEAD"),
            Ask("v2 pages", page | {"Host": "a.shop.example.com"}, target),
            Ask("v1 stable", page, target, "POST"),
            Ask("v1 stable", page, "/static/a.png?theme=light"),
            Ask("v1 stable", page, target, port=PREVIEW),
            Ask("v2 grown-ups", grown_up),
            Ask("v1 stable", grown_up | {"X-Age": "18"}),
            Ask("v1 stable", grown_up | {"X-City": "Beijing"}),
            Ask("v1 stable", grown_up | {"Cookie": "opt_out=1"}),
        ),
        shares=(
            Share({"v2 traffic": 0.05, "v1 stable": 0.95}, _user),
            Share(
                {"v2 vip-ios-shanghai": 0.2, "v1 vip-ios-shanghai": 0.8},
                lambda user: replace(_user(user), headers=_user(user).headers | vip, address="10.1.7.7"),
            ),
        ),
        lists={"beta-users": ("ann", "bob")},
    )


RECIPES: dict[str, Recipe] = {
    "header": Recipe(
        _header("X-Release-Version", ("v2", "v2 testers"), ("V2", "v1 stable"), ("v1", "v1 stable"), ("", "v1 stable"))
    ),
    "cookie": Recipe(
        (
            *_header(
                "Cookie",
                ("beta=yes", "v2 opted-in"),
                ("theme=dark; beta=on", "v2 opted-in"),
                ("beta=1", "v2 opted-in"),
                ("beta=no", "v1 stable"),
                ("beta=", "v1 stable"),
                ("alphabeta=1", "v1 stable"),
            ),
            Ask("v1 stable"),
        )
    ),
    "percentage": Recipe(
        shares=(
            Share({"v2 traffic": 0.05, "v1 stable": 0.95}, _user),
            Share(
                {"v2 traffic": 0.05, "v1 stable": 0.95}, lambda user: Ask(headers={"Cookie": f"a=b; uid=user-{user}"})
            ),
            Share({"v2 traffic": 0.05, "v1 stable": 0.95}, _address),
        )
    ),
    "whitelist": Recipe(
        (
            *_header("X-User-ID", ("ann", "v2 beta"), ("bob", "v2 beta"), ("Ann", "v1 stable"), ("anna", "v1 stable")),
            Ask("v1 stable"),
        ),
        lists={"beta-users": ("ann", "bob")},
    ),
    "ip-range": Recipe(
        tuple(
            Ask(wanted, address=address)
            for address, wanted in (
                ("10.9.0.0", "v2 office"),
                ("10.9.255.255", "v2 office"),
                ("2001:db8:9::1", "v2 office"),
                ("192.0.2.7", "v2 office"),
                ("10.10.0.0", "v1 stable"),
                ("2001:db8:a::1", "v1 stable"),
                ("192.0.2.8", "v1 stable"),
            )
        )
    ),
    "region": Recipe(
        (
            Ask("v2 hong-kong", {"X-Country": "HK"}, address="203.0.113.1"),
            Ask("v1 stable", {"X-Country": "CN"}, address="203.0.113.1"),
            Ask("v1 stable", address="203.0.113.1"),
        ),
        (
            Share(
                {"v2 shanghai": 0.2, "v1 shanghai": 0.8},
                lambda user: Ask(address=f"10.{1 + user % 2}.{user // 250}.{user % 250}"),
            ),
        ),
    ),
    "device": Recipe(
        tuple(
            Ask(wanted, {"User-Agent": _agent(device)})
            for device, wanted in (
                ("ios,mobile", "v2 apple"),
                ("ios,tablet", "v2 apple"),
                ("android,mobile", "v1 stable"),
                ("desktop", "v1 stable"),
                ("ios,mobile,wechat", "v1 wechat-and-crawlers"),
                ("desktop,wechat", "v1 wechat-and-crawlers"),
                ("bot", "v1 wechat-and-crawlers"),
            )
        )
    ),
    "ab": Recipe(
        (
            Ask("v1 stable", {"Cookie": "uid=7"}),
            Ask("v1 stable", {"Cookie": "uid=7"}, "/checkouts"),
            Ask("v1 stable", {"Cookie": "uid=7"}, "/cart/checkout"),
        ),
        (
            Share(
                {"checkout-a checkout": 0.5, "checkout-b checkout": 0.5},
                lambda user: Ask(headers={"Cookie": f"uid={user}"}, path="/checkout/pay?step=1"),
            ),
        ),
    ),
    "several-canaries": Recipe(
        shares=(Share({"v2 traffic": 0.1, "v3 traffic": 0.05, "v3-arm traffic": 0.005, "v1 stable": 0.845}, _user),)
    ),
    "blue-green": Recipe(
        (
            Ask("blue stable"),
            Ask("blue stable", {"X-Preview": "1"}),
            Ask("blue stable", port=PREVIEW),
            Ask("green preview", {"X-Preview": "1"}, port=PREVIEW),
        )
    ),
    "explicit-version": Recipe(
        tuple(
            Ask(wanted, {"X-Release-Version": value}, address=address)
            for value, address, wanted in (
                ("v2", "10.1.2.3", "v2 explicit"),
                ("v1", "10.1.2.3", "v1 explicit"),
                ("always", "10.1.2.3", "v2 explicit"),
                ("Never", "10.1.2.3", "v1 explicit"),
                ("v3", "10.1.2.3", "400"),
                ("V2", "10.1.2.3", "400"),
                ("v2", "192.0.2.1", "v1 stable"),
                ("v3", "192.0.2.1", "v1 stable"),
            )
        ),
        (Share({"v2 traffic": 0.05, "v1 stable": 0.95}, _address),),
    ),
    "tcp": Recipe(
        (Ask("v2 office", address="10.9.1.1"), Ask("v2 office", address="10.9.200.1")),
        (Share({"v2 traffic": 0.1, "v1 stable": 0.9}, _address),),
    ),
    "grpc": Recipe(
        (
            Ask("v1 stable", {"x-user-id": "7", "x-partner": "initech"}, "/pricing.Quotes/Greet"),
            Ask("v1 stable", {"x-user-id": "7", "x-partner": "Acme"}, "/pricing.Quotes/Greet"),
            Ask("v1 stable", {"x-user-id": "7", "x-partner": "acme"}, "/pricing.Orders/Greet"),
        ),
        (
            Share(
                {"v2 quotes-of-partners": 0.5, "v1 quotes-of-partners": 0.5},
                lambda user: Ask(headers={"x-user-id": f"u{user}", "x-partner": "acme"}, path="/pricing.Quotes/Greet"),
            ),
        ),
    ),
    "expressions": Recipe(
        (
            *_header(
                "X-Age", ("18", "v2 grown-ups"), ("0099", "v2 grown-ups"), ("17", "v1 stable"), **{"X-City": "beijing"}
            ),
            *_header("X-Age", ("18.5", "v1 stable"), ("", "v1 stable"), **{"X-City": "shanghai"}),
            *_header("X-City", ("paris", "v1 stable"), ("Beijing", "v1 stable"), **{"X-Age": "20"}),
            Ask("v1 stable", {"X-Age": "20", "X-City": "beijing", "Cookie": "opt_out=1"}),
            Ask("v2 grown-ups", {"X-Age": "20", "X-City": "beijing", "Cookie": "opt_out=0"}),
            Ask("v1 stable", {"User-Agent": "ShopApp/5", "X-App-Build": "4200"}),
            Ask("v1 stable", {"User-Agent": "NotShopApp/5", "X-App-Build": "4201"}),
            Ask("v1 stable", {"X-User-Tags": "vip"}, address="10.9.1.1"),
        ),
        (
            Share(
                {"v2 new-apps": 0.25, "v1 new-apps": 0.75},
                lambda user: replace(_address(user), headers={"User-Agent": "ShopApp/5", "X-App-Build": "4201"}),
            ),
            Share(
                {"v2 new-apps": 0.25, "v1 new-apps": 0.75},
                lambda user: replace(_address(user), headers={"X-User-Tags": "a, vip"}),
            ),
        ),
    ),
    "weights": Recipe(
        shares=(Share({"v1 traffic": 0.75, "v2 traffic": 0.25}, _user),), sticky=False, weights={"v1": 3, "v2": 1}
    ),
    "staged": Recipe(shares=(Share({"v2 traffic": 0.2, "v1 stable": 0.8}, _user),)),
    "everything": _everything(),
}
