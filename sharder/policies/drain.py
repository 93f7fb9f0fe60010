"""Empty an instance that is to be removed: all its shards leave, by a switch where possible."""

from collections.abc import Sequence

from sharder.draft import Draft
from sharder.operators import Crossing, Refusal
from sharder.policies.common import over_limits
from sharder.policies.switch import holders
from sharder.policies.upkeep import may_move, operator
from sharder.reasons import Reason


def propose(draft: Draft, hot: Sequence[tuple[int, Crossing]]) -> None:
    """Move every shard of live draining instances elsewhere, the largest load first."""
    for instance, state in enumerate(draft.table.instances):
        if not (state.draining and state.alive):
            continue
        place = draft.table.rows_of(instance)
        rows = [r for r in range(place.start, place.stop) if r not in draft.moved]
        rows.sort(key=lambda r: (-float(draft.table.mean[r].max()), draft.table.shards[r].id))
        draft.refusals[instance] = []
        if place.start == place.stop:
            draft.refuse(instance, Refusal(Reason.DRAINED, state.id))
        for row in rows:
            why = _empty(draft, instance, row)
            if why is not None:
                draft.refuse(instance, why)


def _empty(draft: Draft, instance: int, row: int) -> Refusal | None:
    shard, name = draft.table.shards[row], draft.table.instances[instance].id
    why = may_move(draft, row, instance)
    if why is not None and why.reason in (Reason.PINNED, Reason.COOLDOWN):
        # A pinned or recently moved shard leaves, too; only the limits on operators hold.
        why = over_limits(draft, instance, shard.id, due=True)
    if why is not None:
        return why
    if shard.in_sync and "switch" in draft.config.executable:
        there = draft.find_target(row, instance, among=holders(draft, row), copied=False)
        if there.index is not None:
            reason = f"{name} is draining; another instance holds {shard.id} in sync."
            made = operator(draft, "switch", row, instance, there.index, 0.0, reason, copied=False)
            draft.accept(row, instance, there.index, made, copied=False)
            return None
    there = draft.find_target(row, instance)
    if there.index is None:
        return there.refusal
    target = draft.table.instances[there.index].id
    reason = f"{name} is draining; {target} has the most room for {shard.id}."
    made = operator(draft, "move", row, instance, there.index, 0.0, reason)
    draft.accept(row, instance, there.index, made)
    return None
