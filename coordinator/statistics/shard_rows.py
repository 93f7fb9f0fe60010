"""A shard's present load as an answer: where it is comes from its record, what it does from the
reports, so a shard without operations is shown where it is, too."""

from collections.abc import Mapping
from typing import Any

from coordinator.answers.base import fields_of
from coordinator.answers.statistics import CopyNow, ShardNow
from coordinator.statistics.shard_cpu import copy_cpu
from logstore.meta.records import Member, ShardRecord
from profiler.running import CopyLoad, ShardLoad


def shard_now(
    shard: ShardRecord,
    load: ShardLoad | None,
    slot: int | None,
    weight: float,
    costs: Mapping[str, Mapping[str, float]],
) -> ShardNow:
    """`load`: None where no copy was reported yet. `costs`: of operations, by instance."""
    seen = load or ShardLoad(CopyLoad(), {})
    cpu = {name: copy_cpu(copy, costs.get(name, {})) for name, copy in seen.copies.items()}
    members = sorted(shard.members(), key=lambda m: m.instance != shard.primary.instance)
    return ShardNow(
        **_figures(seen.whole, sum(cpu.values(), 0.0)),
        shard=shard.shard,
        log=shard.log,
        instance=shard.primary.instance,
        slot=slot,
        migration_weight=weight,
        copies=tuple(
            CopyNow(
                **_figures(seen.copies.get(m.instance, CopyLoad()), cpu.get(m.instance, 0.0)),
                instance=m.instance,
                role=_role(shard, m),
                reported=m.instance in seen.copies,
            )
            for m in members
        ),
    )


def _role(shard: ShardRecord, member: Member) -> str:
    if member.replica_id == shard.primary.replica_id:
        return "primary"
    return "follower" if member in shard.in_sync else "learner"


def _figures(load: CopyLoad, cpu: float) -> dict[str, Any]:
    return fields_of(load) | {"offered_per_s": load.offered_per_s, "cpu": cpu}
