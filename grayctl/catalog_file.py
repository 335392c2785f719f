"""A catalog from a file: offline renders, tests, previews. Needs neither Consul nor nginx.

    services:
      shop:
        - {id: shop-1, address: 10.0.0.1, port: 8080, version: v1, weight: 20, health: passing}

`version` and `weight` stand for Meta of those names; `tags`, `meta` and `node` may be given as in Consul.
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


class _File(msgspec.Struct, forbid_unknown_fields=True):
    services: dict[str, tuple[_Instance, ...] | None]


class _TextLoader(yaml.SafeLoader):
    """Scalars as they are written: version 1.10 stays 1.10, and `on` is no truth value."""


# No implicit resolution: every plain scalar is text, except integers where the field is one (strict=False below).
_TextLoader.yaml_implicit_resolvers = {}


def load(path: Path) -> Catalog:
    """Read a catalog file (YAML or JSON).

    Raises:
        CatalogFileError: with file, line and what is allowed.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_TextLoader)  # noqa: S506 -- a SafeLoader's child
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CatalogFileError(f"{path}: cannot read the catalog: {reason}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise CatalogFileError(f"{path}:{line}: this is no YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise CatalogFileError(f"{path}: this is no YAML: {error}") from error
    try:
        file = msgspec.convert(raw, _File, strict=False)
    except msgspec.ValidationError as error:
        message, _, at = str(error).partition(" - at `")
        allowed = ", ".join(_Instance.__struct_fields__)
        raise CatalogFileError(
            f"{path}: {at.rstrip('`') or '$'}: {message}. "
            f"Write `services:` with a list of instances under each name; an instance has {allowed}"
        ) from error
    return Catalog(services={name: _registrations(name, rows or ()) for name, rows in file.services.items()})


def _registrations(service: str, rows: tuple[_Instance, ...]) -> tuple[Registration, ...]:
    return tuple(
        sorted(
            Registration(
                service=service,
                id=row.id,
                node=row.node,
                node_address=row.node_address,
                address=row.address,
                port=row.port,
                tags=row.tags,
                meta=tuple(sorted(_meta(row).items())),
                health=row.health,
            )
            for row in rows
        )
    )


def _meta(row: _Instance) -> dict[str, Any]:
    own = {key: value for key, value in (("version", row.version), ("weight", row.weight)) if value}
    return {**row.meta, **own}
