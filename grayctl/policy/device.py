"""What a User-Agent says about the device, as a set: the rules of docs/releases.md, as patterns in order."""

from grayctl.model.tables import Value
from grayctl.model.tokens import MapKey, Regex, Text, Variable

DEVICES = ("android", "bot", "desktop", "ios", "mobile", "tablet", "wechat")

# One word a pattern: PCRE without JIT finds a word by its first letter, and is slow with several, or with look-aheads.
_BOT = (
    r"(?<!cu)bot\b",  # Cubot makes phones
    "crawl",
    "spider",
    "slurp",
    "mediapartners",
    "facebookexternalhit",
    "ia_archiver",
)
WECHAT = "wechat"
_WECHAT = "micromessenger"
# A Windows Phone says Android and iPhone too, so it comes first; an iPad posing as a Mac is a desktop.
_CLASSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("windows phone", ("mobile",)),
    ("ipad", ("ios", "tablet")),
    ("iphone", ("ios", "mobile")),
    ("ipod", ("ios", "mobile")),
    ("android.*mobile", ("android", "mobile")),
    ("mobile.*android", ("android", "mobile")),
    ("android", ("android", "tablet")),
    ("windows nt", ("desktop",)),
    ("macintosh", ("desktop",)),
    ("cros ", ("desktop",)),
    ("x11;", ("desktop",)),
    ("mobile", ("mobile",)),
)


def label(devices: tuple[str, ...]) -> Text:
    """How the table's value names a set: `,ios,mobile,`."""
    return Text(f",{','.join(sorted(devices))},")


def labels_of(wanted: tuple[str, ...]) -> tuple[MapKey, ...]:
    """The labels that name any of these devices, as keys: a label is looked up, not searched."""
    sets = [("bot",), (WECHAT,), *(devices for _, devices in _CLASSES)]
    sets += [(*devices, WECHAT) for _, devices in _CLASSES]
    return tuple(dict.fromkeys(MapKey(label(one).text) for one in sets if set(one) & set(wanted)))


def entries(inside_wechat: Variable) -> tuple[tuple[Regex, Value], ...]:
    """User-Agent patterns, first match wins, with the set they mean, or the table that says it."""
    return (
        *((Regex(pattern, ignore_case=True), label(("bot",))) for pattern in _BOT),
        (Regex(_WECHAT, ignore_case=True), inside_wechat),
        *classes(),
    )


def classes(*more: str) -> tuple[tuple[Regex, Text], ...]:
    """The patterns of the classes of devices; each set has `more` in it."""
    return tuple((Regex(pattern, ignore_case=True), label((*devices, *more))) for pattern, devices in _CLASSES)
