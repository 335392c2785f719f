"""How an upstream chooses a server."""

from dataclasses import dataclass
from enum import StrEnum

from grayctl.model.tokens import Expression


class Method(StrEnum):
    """How an upstream chooses a server."""

    ROUND_ROBIN = "round_robin"
    LEAST_CONN = "least_conn"
    IP_HASH = "ip_hash"
    RANDOM = "random"
    HASH = "hash"

    @property
    def knows_backup(self) -> bool:
        """Whether nginx accepts `backup` servers beside this method."""
        return self in {Method.ROUND_ROBIN, Method.LEAST_CONN}


@dataclass(frozen=True, slots=True)
class Balance:
    """A method, with its key where the method is `hash`."""

    method: Method = Method.ROUND_ROBIN
    key: Expression | None = None


ROUND_ROBIN = Balance()
