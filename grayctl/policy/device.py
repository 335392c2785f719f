"""What a User-Agent says about the device, as a set: the rules of docs/releases.md, as patterns in order."""

from grayctl.model.tokens import Regex, Text

DEVICES = ("android", "bot", "desktop", "ios", "mobile", "tablet", "wechat")

_BOT = r"(?<!cu)bot\b|crawl|spider|slurp|mediapartners|facebookexternalhit|ia_archiver"  # Cubot makes phones
_WECHAT = "micromessenger"
# A Windows Phone says Android and iPhone too, so it comes first; an iPad posing as a Mac is a desktop.
_CLASSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"windows phone", ("mobile",)),
    (r"ipad", ("ios", "tablet")),
    (r"iphone|ipod", ("ios", "mobile")),
    (r"android.*mobile|mobile.*android", ("android", "mobile")),
    (r"android", ("android", "tablet")),
    (r"windows nt|macintosh|cros |x11;", ("desktop",)),
    (r"mobile", ("mobile",)),
)


def label(devices: tuple[str, ...]) -> Text:
    """How the table's value names a set: `,ios,mobile,`."""
    return Text(f",{','.join(sorted(devices))},")


def membership(device: str) -> Regex:
    """The pattern that finds a device in a label."""
    return Regex(f",{device},")


def entries() -> tuple[tuple[Regex, Text], ...]:
    """User-Agent patterns, first match wins, with the set they mean."""
    found = [(Regex(_BOT, ignore_case=True), label(("bot",)))]
    for pattern, devices in _CLASSES:
        found.append((Regex(f"^(?=.*{_WECHAT})(?=.*(?:{pattern}))", ignore_case=True), label((*devices, "wechat"))))
        found.append((Regex(pattern, ignore_case=True), label(devices)))
    return (*found, (Regex(_WECHAT, ignore_case=True), label(("wechat",))))
