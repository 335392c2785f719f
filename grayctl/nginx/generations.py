"""Generations on disk: objects, entry files, manifests, the journal. Durable, and torn nowhere.

    <state_dir>/objects/<slug>-<sha>.conf             0444, immutable, named by its content
    <state_dir>/snippetsets/<sha>/<slug>.conf         the snippets of a generation, shared while they are equal
    <state_dir>/generations/000042/{http.conf, stream.conf, manifest.json, snippets -> ../../snippetsets/<sha>}
    <state_dir>/current -> generations/000042
    <state_dir>/snippets -> current/snippets
    <state_dir>/pending.json                          an activation under way
    <state_dir>/state.json                            the last proof

Every file is written under a temporary name, synced and renamed; then its directory is synced. The order and
the journal are FACTS.md's "Protocol that survived 16 injected crashes".
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from grayctl.errors import Locked, StateError
from grayctl.model.generation import GENERATION, FileSet, Manifest, Object, generation_name

_SHA_DIGITS = 16
_READ_ONLY = 0o444
_T = TypeVar("_T")


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """The journal: an activation under way. `checked` is false while the check itself needs the flip."""

    from_: int | None = msgspec.field(name="from")
    to: int
    checked: bool


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The last proof: `proven` is false when `serving` was checked while nginx did not run."""

    serving: int = -1
    digest: str = ""
    proven: bool = False
    last_proven: int = -1


@contextlib.contextmanager
def _explained(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or path
        raise StateError(
            f"{place}: cannot {doing}: {error.strerror}. What nginx serves is untouched; "
            "free or mend the file system, grayctl tries again by itself"
        ) from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write whole or not at all; the caller syncs the directory."""
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _link(path: Path, target: str) -> None:
    """Point the symbolic link `path` to `target` in one step, durably."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)
    _sync_directory(path.parent)


def content_sha(content: str) -> str:
    """The first 16 hex digits of the SHA-256 of `content`, as in an object's file name."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:_SHA_DIGITS]


class Store:
    """The state directory of one grayctl.

    Args:
        root: the state directory; `opened` makes what is missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._objects = root / "objects"
        self._sets = root / "snippetsets"
        self._generations = root / "generations"

    @contextlib.contextmanager
    def opened(self) -> Iterator["Store"]:
        """Make what is missing and hold the lock: one writer.

        Raises:
            Locked: another grayctl holds it; the message names its pid.
            StateError: the directory cannot be made or written.
        """
        with _explained(self.root, "make the state directory"):
            for folder in (self.root, self._objects, self._sets, self._generations):
                # nginx's master reads these as root, its workers read none of it; people may look
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock(descriptor)
            if not (self.root / "snippets").is_symlink():
                with _explained(self.root, "link the snippets"):
                    _link(self.root / "snippets", "current/snippets")
            yield self
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise Locked(
                f"{self.root}: grayctl with pid {pid} writes this state directory; "
                "stop it, or use its commands, or give this one a state_dir of its own"
            ) from error
        with _explained(self.root, "write the lock"):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    # ------------------------------------------------------------ writing

    def write(
        self,
        files: FileSet,
        *,
        cause: str,
        trace_id: str,
        created: float,
        quarantined: dict[str, str] | None = None,
    ) -> Manifest:
        """Write a generation, whole and synced; nothing refers to it yet.

        Raises:
            StateError: disk full, read-only, no right; what was half written is removed at the next prune.
        """
        number = max(self.numbers(), default=-1) + 1
        manifest = Manifest(
            number=number,
            digest=files.digest,
            objects={service: one.filename for service, one in files.objects.items()},
            snippets=content_sha("".join(f"{one.slug}\0{one.snippet}\0" for one in files.objects.values())),
            created=created,
            cause=cause,
            trace_id=trace_id,
            quarantined=quarantined or {},
        )
        with _explained(self.root, "write a generation"):
            self._write_objects(files.objects.values())
            self._write_snippets(manifest.snippets, files.objects.values())
            folder = self._generations / f".{manifest.name}.new"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o755)
            stamp = f"{manifest.name} {manifest.digest}"
            _write_file(folder / "http.conf", files.http.replace(GENERATION, stamp).encode("utf-8", "surrogatepass"))
            _write_file(folder / "stream.conf", files.stream.encode("utf-8", "surrogatepass"))
            _write_file(folder / "manifest.json", msgspec.json.encode(manifest))
            (folder / "snippets").symlink_to(f"../../snippetsets/{manifest.snippets}")
            _sync_directory(folder)
            folder.rename(self._generations / manifest.name)
            _sync_directory(self._generations)
        return manifest

    def _write_objects(self, objects: Iterable[Object]) -> None:
        present = {entry.name for entry in os.scandir(self._objects)}
        missing = [one for one in objects if one.filename not in present]
        for one in missing:
            _write_file(self._objects / one.filename, one.content.encode("utf-8", "surrogatepass"), _READ_ONLY)
        if missing:
            _sync_directory(self._objects)

    def _write_snippets(self, name: str, objects: Iterable[Object]) -> None:
        if (self._sets / name).is_dir():
            return
        fresh = self._sets / f".{name}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o755)
        for one in objects:
            _write_file(fresh / f"{one.slug}.conf", one.snippet.encode("utf-8", "surrogatepass"))
        _sync_directory(fresh)
        fresh.rename(self._sets / name)
        _sync_directory(self._sets)

    def flip(self, number: int) -> None:
        """Make generation `number` the current one, in one step, durably.

        Raises:
            StateError: the link cannot be written.
        """
        with _explained(self.root / "current", "flip the current generation"):
            _link(self.root / "current", f"generations/{generation_name(number)}")

    # ------------------------------------------------------------ reading

    def numbers(self) -> list[int]:
        """The generations on disk, ascending."""
        if not self._generations.is_dir():
            return []
        return sorted(int(entry.name) for entry in os.scandir(self._generations) if entry.name.isdigit())

    def folder(self, number: int) -> Path:
        """A generation's directory."""
        return self._generations / generation_name(number)

    def read(self, number: int) -> Manifest:
        """A generation's manifest.

        Raises:
            StateError: there is none, or it is damaged.
        """
        path = self.folder(number) / "manifest.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except FileNotFoundError as error:
            kept = ", ".join(map(str, self.numbers())) or "none"
            raise StateError(f"there is no generation {number}; kept are: {kept}") from error
        except (OSError, msgspec.DecodeError) as error:
            raise StateError(f"{path}: the manifest is damaged: {error}") from error

    def current_number(self) -> int | None:
        """Where `current` points; None when it points nowhere."""
        try:
            name = (self.root / "current").readlink().name
        except OSError:
            return None
        return int(name) if name.isdigit() and (self._generations / name).is_dir() else None

    def current(self) -> Manifest | None:
        """The current generation; None when there is none or it is damaged."""
        number = self.current_number()
        try:
            return None if number is None else self.read(number)
        except StateError:
            return None

    def objects(self, manifest: Manifest) -> dict[str, Object]:
        """The objects of a generation, as written.

        Raises:
            StateError: one is missing or its content does not match its name.
        """
        found: dict[str, Object] = {}
        for service, filename in manifest.objects.items():
            slug, _, sha = filename.removesuffix(".conf").rpartition("-")
            snippet_path = self._sets / manifest.snippets / f"{slug}.conf"
            try:
                content = (self._objects / filename).read_bytes().decode("utf-8", "surrogatepass")
                snippet = snippet_path.read_bytes().decode("utf-8", "surrogatepass")
            except OSError as error:
                raise StateError(f"generation {manifest.number}: {error.filename}: {error.strerror}") from error
            if content_sha(content) != sha:
                raise StateError(f"{self._objects / filename}: changed by hand: its content does not match its name")
            found[service] = Object(service, slug, sha, content, snippet)
        return found

    def entry(self, manifest: Manifest) -> str:
        """The text of a generation's http.conf.

        Raises:
            StateError: it cannot be read.
        """
        path = self.folder(manifest.number) / "http.conf"
        try:
            return path.read_bytes().decode("utf-8", "surrogatepass")
        except OSError as error:
            raise StateError(f"{path}: cannot be read: {error.strerror}") from error

    def stands(self, manifest: Manifest) -> bool:
        """Whether `manifest` is the current generation and its entry files are there: cheap, for every converge."""
        return self.current_number() == manifest.number and (self.folder(manifest.number) / "http.conf").is_file()

    # ------------------------------------------------------------ the journal

    def pending(self) -> Pending | None:
        """The activation under way; None when there is none.

        Raises:
            StateError: it is unreadable; the caller treats that as an activation that failed.
        """
        return self._read_json("pending.json", Pending)

    def set_pending(self, pending: Pending) -> None:
        """Register the intent, before the act."""
        self._write_json("pending.json", msgspec.json.encode(pending))

    def drop_pending(self) -> None:
        """The activation is over, either way."""
        with _explained(self.root, "drop the journal"):
            (self.root / "pending.json").unlink(missing_ok=True)
            _sync_directory(self.root)

    def state(self) -> State:
        """The last proof; an unreadable record counts as none."""
        try:
            return self._read_json("state.json", State) or State()
        except StateError:
            return State()

    def set_state(self, state: State) -> None:
        """Record a proof."""
        self._write_json("state.json", msgspec.json.encode(state))

    def _read_json(self, name: str, kind: type[_T]) -> _T | None:
        path = self.root / name
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise StateError(f"{path}: unreadable: {error}") from error

    def _write_json(self, name: str, content: bytes) -> None:
        with _explained(self.root / name, "write the journal"):
            _write_file(self.root / name, content)
            _sync_directory(self.root)

    # ------------------------------------------------------------ pruning

    def prune(self, keep: int) -> None:
        """Mark and sweep: keep the newest `keep` generations, the current, the last proven, and what they use."""
        numbers = self.numbers()
        wanted = set(numbers[-keep:]) | {self.current_number(), self.state().last_proven}
        if pending := self.pending():
            wanted |= {pending.from_, pending.to}
        kept: list[Manifest] = []
        for number in numbers:
            if number not in wanted:
                shutil.rmtree(self.folder(number), ignore_errors=True)
                continue
            with contextlib.suppress(StateError):
                kept.append(self.read(number))
        used = {filename for manifest in kept for filename in manifest.objects.values()}
        sets = {manifest.snippets for manifest in kept}
        for entry in os.scandir(self._objects):
            if entry.name not in used:
                Path(entry.path).unlink(missing_ok=True)
        for entry in os.scandir(self._sets):
            if entry.name not in sets:
                shutil.rmtree(entry.path, ignore_errors=True)
