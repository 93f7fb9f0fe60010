"""Operators that cure no crossing: what drain, spread, tier, co-locate and move cold share."""

from collections.abc import Sequence

from sharder.draft import Draft
from sharder.operators import Operator, Refusal, Trigger
from sharder.policies.common import over_limits
from sharder.reasons import Reason
from sharder.risk import move_cost


def use_of(draft: Draft, row: int, instance: int) -> float:
    """Mean load of a shard over the horizon as a share of an instance (the scarcer resource)."""
    mean, _ = draft.table.shard_load(row)
    return float((mean.mean(axis=1) / draft.table.capacity[instance]).max())


def peak_use_of(draft: Draft, rows: Sequence[int], instance: int) -> float:
    """Highest load of these shards together over the horizon as a share of an instance."""
    total = sum(draft.table.shard_load(row)[0] for row in rows)
    return float((total / draft.table.capacity[instance][:, None]).max())


def may_move(draft: Draft, row: int, instance: int) -> Refusal | None:
    """Why an operator may not touch a shard now; None: it may."""
    shard, config = draft.table.shards[row], draft.config
    name = draft.table.instances[instance].id
    if not draft.table.instances[instance].alive:
        return Refusal(Reason.NOT_ALIVE, name, shard.id)
    if shard.migrating or shard.id in draft.in_flight or row in draft.moved:
        return Refusal(Reason.ALREADY_MIGRATING, name, shard.id)
    if shard.migration_weight == 0.0:
        return Refusal(Reason.PINNED, name, shard.id)
    ago = draft.view.now_s - (shard.last_moved_s or 0.0)
    if shard.last_moved_s is not None and ago < config.cooldown_s:
        return Refusal(Reason.COOLDOWN, name, shard.id, float(ago), config.cooldown_s)
    return over_limits(draft, instance, shard.id, due=True)


def cost_of(draft: Draft, row: int) -> float:
    """What moving a whole shard costs, in overloaded instance-seconds."""
    size = draft.table.shards[row].bytes
    moves = draft.view.moves
    return move_cost(size, moves.duration_s(size), moves.blackout_ms, draft.config.risk)


def operator(
    draft: Draft,
    kind: str,
    row: int,
    source: int,
    target: int,
    gain: float,
    reason: str,
    *,
    copied: bool = True,
    partner: str | None = None,
) -> Operator:
    """An operator that starts now. `copied=False`: no bytes are copied."""
    view, shard = draft.view, draft.table.shards[row]
    size = shard.bytes if copied else 0
    took_s = view.moves.duration_s(size) if copied else view.moves.switching_s
    cost = move_cost(size, took_s, view.moves.blackout_ms, draft.config.risk)
    used = float(draft.table.used[source])
    return Operator(
        kind=kind,
        shard=shard.id,
        source=draft.table.instances[source].id,
        target=draft.table.instances[target].id,
        strategy=draft.config.strategy if kind == "move" else kind,
        start_s=float(view.now_s),
        deadline_s=float(view.now_s) + took_s,
        due=True,
        bytes=size,
        expected_duration_s=took_s,
        expected_gain=gain,
        risk=gain - cost,
        forecast=draft.summary(source),
        trigger=Trigger.REACTIVE if used > draft.config.risk.threshold else Trigger.FORECAST,
        reason=reason,
        partner=partner,
        executable=kind in draft.config.executable,
    )
