"""Generations on disk: objects, entry files, manifests, the journal. Durable, and torn nowhere.

    <state_dir>/objects/<slug>-<sha>.conf             0444, immutable, named by its content
    <state_dir>/snippetsets/<sha>/<slug>.conf         the snippets of a generation, shared while they are equal
    <state_dir>/snippetsets/<sha>/pass/<slug>.conf    the same with the pass, all that a location needs
    <state_dir>/generations/000042/{http.conf, stream.conf, manifest.json, snippets -> ../../snippetsets/<sha>}
    <state_dir>/generations/000042/served             it stood once: pruning counts only these
    <state_dir>/current -> generations/000042
    <state_dir>/snippets -> current/snippets
    <state_dir>/pending.json                          an activation under way
    <state_dir>/state.json                            the last proof

Files are written under a temporary name and renamed, and are durable before the journal or `current` refers to
them. The order and the journal are FACTS.md's "Protocol that survived 16 injected crashes".

Who writes here writes what nginx's master runs as root, so a directory that others may write to is refused.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from grayctl.errors import StateError
from grayctl.model.generation import GENERATION, PASSES, FileSet, Manifest, Object, generation_name
from grayctl.nginx.content import (
    FileStamp,
    Hashes,
    content_sha,
    decoded,
    demand_match,
    file_parts,
    snippet_set,
    stamp_of,
)
from grayctl.nginx.disk import demand_ownership, explained, hold, leads, open_lock, point, remove_tree, sync
from grayctl.nginx.journal import Journal
from grayctl.nginx.writer import HTTP, MANIFEST, SNIPPETS, STREAM, Writer

_SERVED = "served"
_DAMAGED_SNIPPET = "a snippet is missing or changed"
# Candidates that never stood: refused ones, and those tried while looking for a culprit. So many of the newest
# stay, to be tried again or looked at; halving thousands of services takes fewer.
_KEEP_CANDIDATES = 20


class Store(Journal):
    """The state directory of one grayctl.

    Args:
        root: the state directory; `opened` makes what is missing.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.objects_dir = root / "objects"
        self.sets_dir = root / "snippetsets"
        self.generations_dir = root / "generations"
        self._hashes = Hashes()
        self._writer = Writer(root, self._hashes)
        self._highest = -1
        self._whole: tuple[str, dict[str, str]] = "", {}  # a set of snippets that was whole, and the hashes in it
        self._known: dict[int, tuple[FileStamp, Manifest]] = {}  # manifests, read again only when they were touched

    @contextlib.contextmanager
    def opened(self) -> Iterator["Store"]:
        """Make what is missing and hold the lock: one writer.

        Raises:
            Locked: another grayctl holds it; the message names its pid.
            StateError: the directory cannot be made, or others may write to it.
        """
        with explained(self.root, "make the state directory"):
            self._make_folders()
            demand_ownership(self.root)
            descriptor = open_lock(self.root / "lock")
        try:
            hold(descriptor, self.root)
            with explained(self.root, "read the state directory"):
                self._writer.doubt(self.current())
                self._drop_unfinished()
            yield self
        finally:
            os.close(descriptor)

    def _make_folders(self) -> None:
        # nginx's master reads it all as root, its workers read none of it. A directory that is there already keeps
        # its mode: where the master is not root, somebody opened it for the master.
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.objects_dir, self.sets_dir, self.generations_dir):
            folder.mkdir(mode=0o755, exist_ok=True)

    def _drop_unfinished(self) -> None:
        """Remove what a power cut left of a candidate that was never complete; pruning would stop at it."""
        needed = {self.current_number(), self.state().serving, self.state().last_proven}
        for number in set(self.numbers()) - needed:
            try:
                self.read(number)
            except StateError:
                if not self.stood(number):
                    remove_tree(self.folder(number))

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
        """Write what nginx needs to check a generation; `complete` does the rest, and nothing refers to it before.

        Raises:
            StateError: disk full, read-only, no right; then there is no such generation.
        """
        manifest = Manifest(
            number=self._next_number(),
            digest=files.digest,
            created=created,
            cause=cause,
            trace_id=trace_id,
            quarantined=quarantined or {},
        )
        entries = {HTTP: files.http.replace(GENERATION, manifest.stamp), STREAM: files.stream}
        with explained(self.root, "write a generation"):
            self._make_folders()  # somebody may have cleared the state directory under a daemon that runs
            manifest = self._writer.write(files, manifest, entries)
            self._known[manifest.number] = stamp_of(self.folder(manifest.number) / MANIFEST), manifest
        self._highest = manifest.number
        return manifest

    def _next_number(self) -> int:
        """One above every number ever seen: nginx may still answer an old one."""
        seen = [self._highest, self.state().serving, *self.numbers()]
        with contextlib.suppress(StateError):  # a damaged journal is what `Site.recover` reports
            if pending := self.pending():
                seen.append(pending.to)
        return max(seen) + 1

    def complete(self, manifest: Manifest) -> bool:
        """Make a written generation whole and durable: before anything that survives a crash refers to it.

        Returns:
            Whether something of it was damaged and has been mended: what nginx read of it meanwhile counts for nothing.

        Raises:
            StateError: the disk refuses, and then there is no such generation; or there is none.
        """
        self.read(manifest.number)
        with explained(self.root, "write a generation"):
            return self._writer.complete(manifest.number)

    def flip(self, number: int, *, synced: bool = True) -> None:
        """Make generation `number` the current one, in one step.

        Args:
            number: a complete generation.
            synced: durably; otherwise a power cut may undo it until the next durable write into the state directory.

        Raises:
            StateError: the link cannot be written.
        """
        current, snippets = self.root / "current", self.root / SNIPPETS
        with explained(current, "flip the current generation"):
            for link in (current, snippets):
                if link.exists() and not link.is_symlink():  # somebody's copy: a link cannot replace a directory
                    link.rename(link.with_name(f"{link.name}.found-{self._next_number()}"))
            point(current, f"generations/{generation_name(number)}")
            if not leads(snippets, "current/snippets"):
                point(snippets, "current/snippets")
            if synced:
                sync(self.root)

    def mark_served(self, number: int) -> None:
        """Remember that generation `number` stood: pruning keeps those, and soon drops what was refused.

        Raises:
            StateError: the mark cannot be written.
        """
        path = self.folder(number) / _SERVED
        with explained(path, "mark the generation"):
            path.touch()  # not synced: lost in a power cut, the generation is only pruned earlier

    def stood(self, number: int) -> bool:
        """Whether generation `number` ever stood."""
        return (self.folder(number) / _SERVED).exists()

    # ------------------------------------------------------------ reading

    def numbers(self) -> list[int]:
        """The generations on disk, ascending."""
        if not self.generations_dir.is_dir():
            return []
        return sorted(int(entry.name) for entry in os.scandir(self.generations_dir) if entry.name.isdigit())

    def folder(self, number: int) -> Path:
        """A generation's directory."""
        return self.generations_dir / generation_name(number)

    def read(self, number: int) -> Manifest:
        """A generation's manifest.

        Raises:
            StateError: there is none, or it is damaged.
        """
        path = self.folder(number) / MANIFEST
        try:
            mark, known = stamp_of(path), self._known.get(number)
            if known is None or known[0] != mark:
                known = self._known[number] = mark, msgspec.json.decode(path.read_bytes(), type=Manifest)
            return known[1]
        except FileNotFoundError as error:
            kept = ", ".join(map(str, self.numbers())) or "none"
            raise StateError(f"there is no generation {number}; kept are: {kept}") from error
        except (OSError, msgspec.DecodeError) as error:
            raise StateError(f"{path}: the manifest is damaged: {error}") from error

    def current_number(self) -> int | None:
        """Where `current` points; None when it points nowhere."""
        try:
            name = os.readlink(f"{self.root}/current").rpartition("/")[2]  # noqa: PTH115 -- asked every second
            there = name.isdigit() and bool(os.stat(f"{self.generations_dir}/{name}"))  # noqa: PTH116 -- the same
        except OSError:
            return None
        return int(name) if there else None

    def current(self) -> Manifest | None:
        """The current generation; None when there is none or it is damaged."""
        number = self.current_number()
        try:
            return None if number is None else self.read(number)
        except StateError:
            return None

    def objects(self, manifest: Manifest, *, whole: bool = True) -> dict[str, Object]:
        """The objects of a generation, as written.

        Args:
            manifest: whose.
            whole: all of them or an error; otherwise damaged ones are left out.

        Raises:
            StateError: one is missing or its content does not match its name.
        """
        found: dict[str, Object] = {}
        snippets = self.sets_dir / manifest.snippets
        for service, filename in manifest.objects.items():
            slug, sha = file_parts(filename)
            path = self.objects_dir / filename
            try:
                content = decoded(path)
                snippet = decoded(snippets / f"{slug}.conf")
                passing = snippets / PASSES / f"{slug}.conf"  # an earlier grayctl wrote none: the set's name tells
                passed = decoded(passing) if passing.exists() else ""
                demand_match(path, content, sha)
            except StateError:
                if whole:
                    raise
                continue
            found[service] = Object(service, slug, sha, content, snippet, passed)
        texts = {name: text for one in found.values() for name, text in one.included.items()} if whole else {}
        if whole and snippet_set({name: content_sha(text) for name, text in texts.items()}) != manifest.snippets:
            raise StateError(f"{snippets}: {_DAMAGED_SNIPPET}")
        return found

    def entry(self, manifest: Manifest) -> str:
        """The text of a generation's http.conf.

        Raises:
            StateError: it is missing or was changed.
        """
        path = self.folder(manifest.number) / HTTP
        content = decoded(path)
        demand_match(path, content, manifest.files.get(HTTP, ""))
        return content

    # ------------------------------------------------------------ drift

    def stands(self, manifest: Manifest) -> bool:
        """Whether `current` names this generation and each file of it is as written: cheap, for every converge."""
        return self.current_number() == manifest.number and not self.damage(manifest)

    def damage(self, manifest: Manifest) -> list[str]:
        """What is missing or changed of a generation, a line each. A file is read again only when it was touched."""
        parts = {filename: file_parts(filename) for filename in manifest.objects.values()}
        folder = self.folder(manifest.number)
        lines = self._unlike(folder, {name: manifest.files.get(name) for name in (HTTP, STREAM)})
        lines += self._unlike(self.objects_dir, {filename: sha for filename, (_, sha) in parts.items()})
        names = [f"{folder}{slug}.conf" for slug, _ in parts.values() for folder in ("", f"{PASSES}/")]
        held = self._hashes.of(self.sets_dir / manifest.snippets, names)
        there = {name: sha for name, sha in held.items() if sha}
        if (manifest.snippets, there) != self._whole and snippet_set(there) != manifest.snippets:
            lines.append(f"{self.sets_dir / manifest.snippets}: {_DAMAGED_SNIPPET}")
        else:
            self._whole = manifest.snippets, there
        links = {
            folder / SNIPPETS: f"../../snippetsets/{manifest.snippets}",
            self.root / SNIPPETS: "current/snippets",
        }
        return lines + [
            f"{link}: does not lead to {target}" for link, target in links.items() if not leads(link, target)
        ]

    def _unlike(self, folder: Path, wanted: Mapping[str, str | None]) -> list[str]:
        held = self._hashes.of(folder, wanted)
        return [
            f"{folder / name}: {'changed' if held[name] else 'missing'}"
            for name in wanted
            if held[name] != wanted[name]
        ]

    def verify(self) -> list[str]:
        """What is missing or changed of what stands, a line each; empty when all is well."""
        manifest = self.current()
        return [f"{self.root / 'current'}: names no readable generation"] if manifest is None else self.damage(manifest)

    def intact(self, number: int | None) -> Manifest | None:
        """The manifest of a generation that nginx could serve: there, readable, undamaged; otherwise None."""
        try:
            manifest = None if number is None else self.read(number)
        except StateError:
            return None
        mended = f"{self.root / SNIPPETS}:"  # by `flip`
        is_whole = manifest is not None and all(line.startswith(mended) for line in self.damage(manifest))
        return manifest if is_whole else None

    # ------------------------------------------------------------ pruning

    def prune(self, keep: int) -> tuple[int, ...]:
        """Remove all but the newest `keep` generations that stood, and the objects and snippet sets only they used.

        The current one, those of the journal and the last proven one always stay, and the newest candidates.
        Objects and sets all stay as long as one manifest cannot be read, since then nobody knows what it uses.

        Returns:
            The numbers removed.

        Raises:
            StateError: the disk refuses, or the journal or a manifest is damaged.
        """
        numbers = self.numbers()
        needed = self._needed(numbers, keep)
        gone = tuple(number for number in numbers if number not in needed)
        for number in gone:
            with explained(self.folder(number), "remove the old generation"):
                remove_tree(self.folder(number))
            self._hashes.forget(self.folder(number))
            self._known.pop(number, None)
        if gone:
            self._sweep([self.read(number) for number in numbers if number in needed])
        return gone

    def _needed(self, numbers: list[int], keep: int) -> set[int]:
        current, pending = self.current_number(), self.pending()
        if current is None:
            return set(numbers)
        stood = [number for number in numbers if self.stood(number)]
        candidates = [number for number in numbers if number not in stood]
        needed = {current, self.state().last_proven, *stood[-keep:], *candidates[-_KEEP_CANDIDATES:]}
        if pending is not None:
            needed |= {pending.to} | ({pending.from_} if pending.from_ is not None else set())
        return needed

    def _sweep(self, manifests: list[Manifest]) -> None:
        objects = {filename for manifest in manifests for filename in manifest.objects.values()}
        sets = {manifest.snippets for manifest in manifests}
        with explained(self.root, "remove what no generation uses"):
            unused = [name for name in os.listdir(self.objects_dir) if name not in objects]  # noqa: PTH208 -- thousands
            for name in unused:
                (self.objects_dir / name).unlink()
            self._hashes.forget(self.objects_dir, unused)
            for folder in self.sets_dir.iterdir():
                if folder.name not in sets:
                    shutil.rmtree(folder)
                    self._hashes.forget(folder)
            for leftover in self.generations_dir.glob(".*"):
                shutil.rmtree(leftover)
