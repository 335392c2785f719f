"""A generation's files, written in two steps, so that `nginx -t` need not wait for the disk.

`write` puts there what nginx must see: the objects that are new, the entry files. `complete` runs beside the check: it
compares everything else that the generation refers to with the disk, mends what somebody damaged, and syncs. Only after
it may anything that survives a crash refer to the generation.
"""

import shutil
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from grayctl.model.generation import PASSES, FileSet, Manifest, Object, generation_name
from grayctl.model.identity import differing, renewed
from grayctl.nginx.content import Hashes, content_sha, encoded, snippet_set
from grayctl.nginx.disk import sync, write_file

HTTP, STREAM, MANIFEST, SNIPPETS = "http.conf", "stream.conf", "manifest.json", "snippets"
_READ_ONLY = 0o444
_FEW, _AT_ONCE = 16, 8


@dataclass(frozen=True, slots=True)
class Contents:
    """What the objects of a file set are called on disk.

    Attributes:
        objects: by service.
        filenames: service -> object file name.
        shas: service -> name in the snippet set -> hash, of what is included of it.
        included: all of these, without the services.
        snippets: name of the snippet set.
    """

    objects: Mapping[str, Object] = field(default_factory=dict)
    filenames: Mapping[str, str] = field(default_factory=dict)
    shas: Mapping[str, dict[str, str]] = field(default_factory=dict)
    included: dict[str, str] = field(default_factory=dict)
    snippets: str = ""

    def stale(self, objects: Mapping[str, Object]) -> AbstractSet[str]:
        """The services whose object is not the very one that is in here."""
        return differing(objects, self.objects)

    def renewed(self, objects: Mapping[str, Object], stale: AbstractSet[str]) -> "Contents":
        """The same of `objects`; only what is `stale` is made anew."""
        fresh = {service: objects[service] for service in stale if service in objects}
        filenames = renewed(self.filenames, stale, {service: one.filename for service, one in fresh.items()})
        shas = {
            service: {name: content_sha(text) for name, text in one.included.items()} for service, one in fresh.items()
        }
        if self.snippets and all(self.shas.get(service) == shas.get(service) for service in stale):
            return Contents(objects, filenames, self.shas, self.included, self.snippets)
        all_shas = renewed(self.shas, stale, shas)
        included = {name: sha for one in all_shas.values() for name, sha in one.items()}
        return Contents(objects, filenames, all_shas, included, snippet_set(included))


class Writer:
    """Writes below a state directory; what is there already is used again after its content was compared.

    Args:
        root: the state directory.
        hashes: of the files in it.
    """

    def __init__(self, root: Path, hashes: Hashes) -> None:
        self._root = root
        self._objects = root / "objects"
        self._sets = root / "snippetsets"
        self._generations = root / "generations"
        self._hashes = hashes
        self._contents = Contents()
        self._number = -1
        self._loose: set[Path] = set()
        self._doubted: set[Path] = set()

    def doubt(self, standing: Manifest | None) -> None:
        """Use nothing again that is there and does not stand: whoever wrote it may have died before the sync."""
        held = frozenset(standing.objects.values()) if standing else frozenset()
        self._doubted = {path for path in self._objects.iterdir() if path.name not in held}
        for folder in self._sets.iterdir():
            if standing is None or folder.name != standing.snippets:
                self._doubted |= {*folder.iterdir(), *folder.glob(f"{PASSES}/*")}

    def write(self, files: FileSet, manifest: Manifest, entries: Mapping[str, str]) -> Manifest:
        """Write what is new in `files`.

        Args:
            files: all of it.
            manifest: without what only the disk knows.
            entries: http.conf and stream.conf.

        Returns:
            The manifest as written.

        Raises:
            OSError: what the system refused; there is no such generation then.
        """
        stale = self._contents.stale(files.objects)
        contents = self._contents.renewed(files.objects, stale)
        self._write_objects(files.objects[service] for service in stale if service in files.objects)
        if contents.snippets != self._contents.snippets or not (self._sets / contents.snippets).is_dir():
            self._write_snippets(contents)
        manifest = msgspec.structs.replace(
            manifest,
            objects=dict(contents.filenames.items()),
            snippets=contents.snippets,
            files={name: content_sha(text) for name, text in entries.items()},
        )
        self._write_generation(manifest, entries)
        self._contents, self._number = contents, manifest.number
        return manifest

    def complete(self, number: int) -> bool:
        """Make generation `number` whole and durable.

        Returns:
            Whether something of it was damaged and has been mended: what nginx read of it meanwhile counts for nothing.

        Raises:
            OSError: what the system refused; then there is no such generation any more.
        """
        mended = False
        try:
            if number == self._number:
                mended = self._write_objects(self._contents.objects.values())
                mended = self._write_snippets(self._contents) or mended
            _sync_all(self._loose)
        except OSError:
            # whether this will ever be on disk nobody knows, and a second sync does not tell: write it all again
            self._doubted |= self._loose
            self._loose.clear()
            self._contents, self._number = Contents(), -1
            shutil.rmtree(self._generations / generation_name(number), ignore_errors=True)
            raise
        self._loose.clear()
        return mended

    def _write_objects(self, objects: Iterable[Object]) -> bool:
        wanted = {one.filename: one for one in objects}
        held = self._held(self._objects, wanted)
        wrong = [one for name, one in wanted.items() if held[name] != one.sha]
        for one in wrong:
            self._put(self._objects / one.filename, one.content)
        if wrong:
            self._loose.add(self._objects)
        return bool(wrong)

    def _write_snippets(self, contents: Contents) -> bool:
        """Write a snippet set. What the current set holds already is linked, which spares a sync for each file."""
        folder, wanted = self._sets / contents.snippets, contents.included
        folders = {folder, *(folder / name for name in {name.rpartition("/")[0] for name in wanted})}
        is_new = not all(one.is_dir() for one in folders)
        for one in folders if is_new else ():
            one.mkdir(mode=0o755, parents=True, exist_ok=True)
        held = self._held(folder, wanted)
        wrong = [name for name, sha in wanted.items() if held[name] != sha]
        if wrong:
            self._mend_snippets(folder, wrong, contents)
        if wrong or is_new:
            self._loose |= {*folders, self._sets}
        return bool(wrong)

    def _mend_snippets(self, folder: Path, names: list[str], contents: Contents) -> None:
        current = (self._root / "current" / SNIPPETS).resolve()
        current_held = self._hashes.of(current, names)
        texts = {name: text for one in contents.objects.values() for name, text in one.included.items()}
        for name in names:
            path = folder / name
            if current_held[name] == contents.included[name] and not path.exists():
                path.hardlink_to(current / name)
            else:
                self._put(path, texts[name])

    def _held(self, folder: Path, names: Collection[str]) -> dict[str, str | None]:
        """The hash of each file that is there, and can be used again."""
        held = self._hashes.of(folder, names)
        if self._doubted:
            held = {name: None if folder / name in self._doubted else sha for name, sha in held.items()}
        return held

    def _put(self, path: Path, text: str) -> None:
        write_file(path, encoded(text), _READ_ONLY, synced=False)
        self._loose.add(path)
        self._doubted.discard(path)

    def _write_generation(self, manifest: Manifest, entries: Mapping[str, str]) -> None:
        fresh = self._generations / f".{manifest.name}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o755)
        folder = self._generations / generation_name(manifest.number)
        try:
            for name, text in entries.items():
                (fresh / name).write_bytes(encoded(text))
            (fresh / MANIFEST).write_bytes(msgspec.json.encode(manifest))
            (fresh / SNIPPETS).symlink_to(f"../../snippetsets/{manifest.snippets}")
            fresh.rename(folder)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        self._loose |= {*(folder / name for name in (*entries, MANIFEST)), folder, self._generations}


def _sync_all(paths: Collection[Path]) -> None:
    """Sync files; many of them several at once, since the disk does together what waits together.

    Raises:
        OSError: what the system refused.
    """
    if len(paths) <= _FEW:
        for path in paths:
            sync(path)
        return
    with ThreadPoolExecutor(_AT_ONCE, "sync") as pool:
        deque(pool.map(sync, paths), maxlen=0)  # taken out, since that raises what went wrong
