"""What stands on disk: objects, the files of a generation, its manifest."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

_PATTERN = re.compile(r'^\s+["\']?~', re.MULTILINE)
_PEER = re.compile(r"^\s*(?:server|upstream)\s", re.MULTILINE)
# Stands in FileSet.http where the generation's number and digest go once it is written.
GENERATION = "@generation@"
# The first line of an object that belongs into nginx's `stream`.
STREAM_MARK = "# stream\n"
# Below `snippets`: the files that hold the pass as well. A folder, since a slug may end with any suffix.
PASSES = "pass"


@dataclass(frozen=True, slots=True)
class Object:
    """One service's configuration, immutable and named by its content.

    Attributes:
        service: whose it is.
        slug: the service's name as a file name.
        sha: the first 16 hex digits of the SHA-256 of `content`.
        content: the text nginx reads.
        snippet: the text of `snippets/<slug>.conf`, which the user includes beside proxy_pass.
        passing: the text of `snippets/pass/<slug>.conf`, which is all that a location needs; empty where a grayctl that
            knew no such file wrote the object.
    """

    service: str
    slug: str
    sha: str
    content: str
    snippet: str
    passing: str

    @property
    def included(self) -> dict[str, str]:
        """What the user includes of it: name below `snippets` -> text."""
        passing = {f"{PASSES}/{self.slug}.conf": self.passing} if self.passing else {}
        return {f"{self.slug}.conf": self.snippet, **passing}

    @property
    def filename(self) -> str:
        """`<slug>-<sha>.conf`."""
        return f"{self.slug}-{self.sha}.conf"

    @property
    def is_stream(self) -> bool:
        """Whether nginx reads it in `stream`, not in `http`."""
        return self.content.startswith(STREAM_MARK)

    @property
    def is_released(self) -> bool:
        """Whether the service has or had a release."""
        return "$grayver_" in self.content

    @property
    def peers(self) -> int:
        """How many upstreams and servers it has: what it takes of the shared memory goes by that."""
        return len(_PEER.findall(self.content))

    @property
    def has_patterns(self) -> bool:
        """Whether one of its maps has a pattern, which nginx searches for in each request that asks it."""
        return bool(_PATTERN.search(self.content))


@dataclass(frozen=True, slots=True)
class FileSet:
    """Everything one generation consists of, except its number.

    Attributes:
        objects: by service name.
        http: the text of http.conf, with GENERATION where `<number> <digest>` goes.
        stream: the text of stream.conf.
        digest: SHA-256 over all of it, 16 hex digits: two file sets with one digest serve alike.
    """

    objects: Mapping[str, Object]
    http: str
    stream: str
    digest: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation is, in manifest.json.

    Attributes:
        number: counts up from 0; the directory's name with six digits.
        digest: the FileSet's.
        objects: service name -> object file name.
        snippets: name of the snippet set.
        files: http.conf and stream.conf -> the first 16 hex digits of the SHA-256 of each.
        created: wall clock, seconds since the epoch.
        cause: what made it, in one line.
        trace_id: runs from Consul's wake to the proof.
        quarantined: service name -> why its object is not the newest.
    """

    number: int
    digest: str
    objects: Mapping[str, str] = {}
    snippets: str = ""
    files: dict[str, str] = {}
    created: float = 0.0
    cause: str = ""
    trace_id: str = ""
    quarantined: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The directory's name."""
        return generation_name(self.number)

    @property
    def stamp(self) -> str:
        """`000042 <digest>`: what stands for GENERATION, and what the marker answers."""
        return f"{self.name} {self.digest}"


def generation_name(number: int) -> str:
    """`000042` for 42."""
    return f"{number:06d}"
