"""A catalog from a file: offline renders, tests, previews. Needs neither Consul nor nginx.

    services:
      shop:
        - {id: shop-1, address: 10.0.0.1, port: 8080, version: v1, weight: 20, health: passing}

`version` and `weight` stand for Meta of those names; `tags`, `meta` and `node` may be given as in Consul. Scalars
are taken as they are written: version 1.10 stays 1.10, and `on` is no truth value.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from grayctl import marked
from grayctl.errors import CatalogFileError
from grayctl.marked import Mapping, Node, Place, Sequence, Text
from grayctl.model.catalog import Catalog, Health, Registration

_Refuse = Callable[[Place, str, str], NoReturn]


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
        text = path.read_bytes()
    except OSError as error:
        raise CatalogFileError(f"{path}: cannot read the catalog: {error.strerror}") from error

    def refuse(place: Place, _value: str, wrong: str) -> NoReturn:
        raise CatalogFileError(f"{path}:{place}: {wrong}")

    top = _entries(refuse, marked.read(text, refuse), "services")
    for key in top:
        if key != "services":
            refuse(key.place, key, "unknown key. Allowed here: services")
    if not top:
        refuse(Place(1, "services"), "", "is missing. Write `services:` with a list of instances under each name")
    (services,) = top.values()
    return Catalog(
        services={
            str(name): _service(refuse, name, node)
            for name, node in _entries(refuse, services, "service names").items()
        }
    )


def _entries(refuse: _Refuse, node: Node | None, wanted: str) -> dict[Text, Node]:
    if not isinstance(node, Mapping):
        refuse(node.place if node is not None else Place(1, ""), "", f"must be a mapping of {wanted}")
    return node.entries


def _service(refuse: _Refuse, name: str, node: Node) -> tuple[Registration, ...]:
    """The registrations of one service, sorted; nothing after the colon means none."""
    if isinstance(node, Text) and node in {"", "null", "~"}:
        return ()
    if not isinstance(node, Sequence):
        refuse(node.place, "", f"must be a list of instances; an instance has {_ALLOWED}")
    return tuple(sorted(_instance(refuse, name, row) for row in node.items))


def _instance(refuse: _Refuse, service: str, node: Node) -> Registration:
    fields = _entries(refuse, node, _ALLOWED)
    for key, value in fields.items():
        if key not in _Instance.__struct_fields__:
            refuse(key.place, key, f"unknown key. An instance has {_ALLOWED}")
        try:
            msgspec.convert({"id": "-", str(key): marked.plain(value)}, _Instance, strict=False)
        except msgspec.ValidationError as error:
            refuse(value.place, "", str(error).partition(" - at ")[0])
    try:
        row = msgspec.convert(marked.plain(node), _Instance, strict=False)
    except msgspec.ValidationError as error:
        refuse(node.place, "", str(error))
    return _registration(service, row)


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
