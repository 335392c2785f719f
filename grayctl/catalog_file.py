"""A catalog from a file: offline renders, tests, previews. Needs neither Consul nor nginx.

    services:
      shop:
        - {id: shop-1, address: 10.0.0.1, port: 8080, version: v1, weight: 20, health: passing}

`version` and `weight` stand for Meta of those names; `tags`, `meta` and `node` may be given as in Consul. Scalars
are taken as they are written: version 1.10 stays 1.10, and `on` is no truth value.
"""

from pathlib import Path
from typing import Any

import msgspec
import yaml
from yaml.reader import ReaderError

from grayctl.errors import CatalogFileError
from grayctl.model.catalog import Catalog, Health, Registration


class _Instance(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    address: str = ""
    port: int = 0
    version: str = ""
    weight: str = ""
    health: Health = Health.PASSING
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = {}
    node: str = "file"
    node_address: str = ""


_ALLOWED = ", ".join(_Instance.__struct_fields__)


def load(path: Path) -> Catalog:
    """Read a catalog file (YAML or JSON).

    Raises:
        CatalogFileError: with file, line, key and what is allowed.
    """
    root = _compose(path)
    reader = _Reader(path)
    top = reader.mapping(root, "the file", "services")
    for key, (key_node, _) in top.items():
        if key != "services":
            raise reader.error(key_node, key, "unknown key. Allowed here: services")
    if "services" not in top:
        raise reader.error(root, "services", "is missing. Write `services:` with a list of instances under each name")
    services = reader.mapping(top["services"][1], "services", "service names")
    return Catalog(services={name: reader.service(name, node) for name, (_, node) in services.items()})


def _compose(path: Path) -> yaml.Node | None:
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CatalogFileError(f"{path}: cannot read the catalog: {reason}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise CatalogFileError(f"{path}:{line}: this is no YAML: {error.problem}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise CatalogFileError(
            f"{path}:{line}: this is no YAML: the character U+{error.character:04X} is not allowed"
        ) from error
    except RecursionError as error:
        raise CatalogFileError(f"{path}:1: nested too deeply; an instance's field is the deepest there is") from error


class _Reader:
    """Walks composed YAML, whose nodes know their lines."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def error(self, node: yaml.Node | None, key: str, message: str) -> CatalogFileError:
        line = node.start_mark.line + 1 if node is not None else 1
        return CatalogFileError(f"{self._path}:{line}: {key}: {message}")

    def mapping(self, node: yaml.Node | None, key: str, wanted: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key -> its node and its value's; a key that stands twice is an error."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, key, f"must be a mapping of {wanted}")
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node, key, "a key must be a text")
            name = self._text(key_node, key)
            if name in found:
                raise self.error(key_node, name, "stands here twice; keep one")
            found[name] = (key_node, value_node)
        return found

    def _text(self, node: yaml.ScalarNode, key: str) -> str:
        text: str = node.value
        if any("\ud800" <= letter <= "\udfff" for letter in text):  # "\ud83e" in double quotes: no UTF-8 has it
            raise self.error(node, key, f"{text!a} holds half a character; write it whole")
        return text

    def service(self, name: str, node: yaml.Node) -> tuple[Registration, ...]:
        """The registrations of one service, sorted; nothing after the colon means none."""
        if isinstance(node, yaml.ScalarNode) and node.value in {"", "null", "~"}:
            return ()
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, f"services.{name}", f"must be a list of instances; an instance has {_ALLOWED}")
        return tuple(sorted(self._instance(name, row) for row in node.value))

    def _instance(self, service: str, node: yaml.Node) -> Registration:
        fields = self.mapping(node, f"services.{service}", _ALLOWED)
        for key, (key_node, _) in fields.items():
            if key not in _Instance.__struct_fields__:
                raise self.error(key_node, f"services.{service}.{key}", f"unknown key. An instance has {_ALLOWED}")
        for key, (_, value) in fields.items():
            self._check_field(f"services.{service}.{key}", key, value)
        raw = {key: self._plain(f"services.{service}.{key}", value) for key, (_, value) in fields.items()}
        try:
            row = msgspec.convert(raw, _Instance, strict=False)
        except msgspec.ValidationError as error:
            raise self.error(node, f"services.{service}", str(error)) from error
        return _registration(service, row)

    def _check_field(self, path: str, key: str, node: yaml.Node) -> None:
        try:
            msgspec.convert({"id": "-", key: self._plain(path, node)}, _Instance, strict=False)
        except msgspec.ValidationError as error:
            raise self.error(node, path, str(error).partition(" - at ")[0]) from error

    def _plain(self, path: str, node: yaml.Node, *, inner: bool = False) -> Any:
        """A field's value. Within a list or mapping only texts are allowed, so that is as deep as this looks."""
        if isinstance(node, yaml.ScalarNode):
            return self._text(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [] if inner else [self._plain(path, one, inner=True) for one in node.value]
        fields = {} if inner else self.mapping(node, path, "texts")
        return {key: self._plain(path, value, inner=True) for key, (_, value) in fields.items()}


def _registration(service: str, row: _Instance) -> Registration:
    own = {key: value for key, value in (("version", row.version), ("weight", row.weight)) if value}
    return Registration(
        service=service,
        id=row.id,
        node=row.node,
        node_address=row.node_address,
        address=row.address,
        port=row.port,
        tags=row.tags,
        meta=tuple(sorted({**row.meta, **own}.items())),
        health=row.health,
    )
