"""Where a shard's next copy goes: alive instances, zones apart, fewest copies first. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from logstore.meta.records import InstanceRecord


@dataclass(frozen=True, slots=True)
class PlacementState:
    """The facts of a round: instances, which are alive, how long the others are silent, copies.

    `draining`: instances that get no new copies and whose copies move elsewhere.
    """

    instances: Mapping[str, InstanceRecord]
    silent_s: Mapping[str, float]
    copies: Mapping[str, int]
    lost_after_s: float
    draining: frozenset[str] = frozenset()

    def is_lost(self, instance: str) -> bool:
        return self.silent_s.get(instance, 0.0) > self.lost_after_s

    def is_alive(self, instance: str) -> bool:
        return instance in self.instances and self.silent_s.get(instance, 0.0) == 0.0


def choose_instance(
    taken: Sequence[str], cluster: PlacementState, zones_of: Sequence[str] | None = None
) -> InstanceRecord | None:
    """The instance for the next copy: alive, not draining, not in `taken`, a zone of its own if
    any, fewest copies. `zones_of`: the instances whose zones count as used; default: `taken`.
    """
    near = taken if zones_of is None else zones_of
    zones = Counter(cluster.instances[i].zone for i in near if i in cluster.instances)
    free = [
        record
        for name, record in cluster.instances.items()
        if name not in taken and name not in cluster.draining and cluster.is_alive(name)
    ]
    return min(
        free,
        key=lambda r: (zones[r.zone], cluster.copies.get(r.instance, 0), r.instance),
        default=None,
    )
