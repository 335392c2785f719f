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
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CatalogFileError(f"{path}: cannot read the catalog: {reason}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise CatalogFileError(f"{path}:{line}: this is no YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise CatalogFileError(f"{path}: this is no YAML: {error}") from error
    reader = _Reader(path)
    top = reader.mapping(root, "the file", "services")
    for key, (key_node, _) in top.items():
        if key != "services":
            raise reader.error(key_node, key, "unknown key. Allowed here: services")
    if "services" not in top:
        raise reader.error(root, "services", "is missing. Write `services:` with a list of instances under each name")
    services = reader.mapping(top["services"][1], "services", "service names")
    return Catalog(services={name: reader.service(name, node) for name, (_, node) in services.items()})


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
            if key_node.value in found:
                raise self.error(key_node, key_node.value, "stands here twice; keep one")
            found[key_node.value] = (key_node, value_node)
        return found

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
        raw = {key: self._plain(value) for key, (_, value) in fields.items()}
        try:
            row = msgspec.convert(raw, _Instance, strict=False)
        except msgspec.ValidationError as error:
            raise self.error(node, f"services.{service}", str(error)) from error
        return _registration(service, row)

    def _check_field(self, path: str, key: str, node: yaml.Node) -> None:
        try:
            msgspec.convert({"id": "-", key: self._plain(node)}, _Instance, strict=False)
        except msgspec.ValidationError as error:
            raise self.error(node, path, str(error).partition(" - at ")[0]) from error

    def _plain(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(one) for one in node.value]
        if isinstance(node, yaml.MappingNode):
            return {key: self._plain(value) for key, (_, value) in self.mapping(node, "meta", "texts").items()}
        return node.value


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
