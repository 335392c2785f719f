"""What one node tells the fleet: `<prefix>/nodes/<node>`."""

import msgspec


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One nginx and the grayctl beside it.

    Attributes:
        node: the name in the settings.
        id: of this installation, drawn once: two machines with one name differ in it.
        version: of grayctl.
        nginx: its version.
        generation, digest: what stands.
        proven: whether nginx has answered it.
        quarantined: services that stay at their last good object.
        frozen: a freeze stands.
        labels: from the settings.
        policy_keys: the keys of a policy that it understands, sorted; empty for a grayctl that knows no releases.
        drained: ids of the drained instances that what stands is without, by service.
        kept: services whose release it keeps although Consul holds it no more, and nobody ended it.
        old_workers: workers of earlier generations that still finish.
    """

    node: str
    id: str
    version: str
    nginx: str = ""
    generation: int = 0
    digest: str = ""
    proven: bool = False
    quarantined: tuple[str, ...] = ()
    frozen: bool = False
    labels: dict[str, str] = {}
    policy_keys: tuple[str, ...] = ()
    drained: dict[str, tuple[str, ...]] = {}
    kept: tuple[str, ...] = ()
    old_workers: int = 0


class FleetNode(msgspec.Struct, frozen=True, kw_only=True):
    """A report as found in Consul; `session` is what its daemon holds it by, empty when the node is silent."""

    report: NodeReport
    session: str

    @property
    def live(self) -> bool:
        """Whether its daemon lives; a silent node's nginx may serve on."""
        return bool(self.session)
