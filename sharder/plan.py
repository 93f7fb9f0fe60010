"""`plan(view) -> Plan`: which shards should move, where, when and why, and why others stay.

Pure: the same view gives the same plan, to the byte. It plans the end state (all accepted and
in-flight operators count) before it orders the operators.
"""

from collections.abc import Callable, Sequence

from sharder.config import PlanMode
from sharder.draft import TOLERANCE, Draft
from sharder.load import LoadTable
from sharder.operators import Crossing, Operator, Plan, Refusal, dump_plan, load_plan
from sharder.policies import (
    co_locate,
    drain,
    ease,
    merge,
    move_cold,
    move_hot,
    split,
    spread,
    switch,
    tier,
)
from sharder.reasons import Reason
from sharder.risk import Floats
from sharder.view import View

__all__ = ["Crossing", "Operator", "Plan", "Refusal", "dump_plan", "explain", "load_plan", "plan"]

Policy = Callable[[Draft, Sequence[tuple[int, Crossing]]], None]

POLICIES: dict[str, Policy] = {
    "switch": switch.propose,
    "move_hot": move_hot.propose,
    "split": split.propose,
    "move_cold": move_cold.propose,
    "ease": ease.propose,
    "drain": drain.propose,
    "spread": spread.propose,
    "tier": tier.propose,
    "co_locate": co_locate.propose,
    "merge": merge.propose,
}
"""Policies by their names in `planner.policies`."""


def plan(view: View, forecasts: tuple[Floats, Floats] | None = None) -> Plan:
    """The plan for `view`. Raises ValueError when a shard's figures are not finite.

    `forecasts`: see LoadTable; by default those of the view.
    """
    for name in view.config.policies:
        if name not in POLICIES:
            raise ValueError(f"planner.policies names {name!r}, known are {sorted(POLICIES)}")
    draft = Draft(view, LoadTable(view, forecasts))
    hot = _hot(draft)
    if view.config.mode is not PlanMode.FORECAST_ONLY:
        for name in view.config.policies:
            POLICIES[name](draft, hot)
    else:
        for instance, crossing in hot:
            share = crossing.forecast.upper / crossing.forecast.capacity
            draft.refusals[instance] = [
                Refusal(Reason.FORECAST_ONLY, crossing.instance, value=share)
            ]
    weight = view.config.risk.latency_weight
    operators = sorted(
        draft.operators, key=lambda op: (-op.worth(weight), -op.expected_gain, op.shard)
    )
    planned = {op.shard for op in operators}
    indices = sorted({*draft.refusals, *draft.also})
    refused = [r for i in indices for r in draft.refusals.get(i, []) + draft.also.get(i, [])]
    refused = [r for r in refused if r.shard not in planned]
    refused += [_not_due(op, view.now_s) for op in operators if not op.due]
    return Plan(
        made_at_s=float(view.now_s),
        slot=view.slot,
        mode=view.config.mode,
        horizon_s=float(draft.table.horizon * view.period_s),
        crossings=tuple(crossing for _, crossing in hot),
        operators=tuple(operators),
        refused=tuple(refused),
    )


def explain(plan: Plan) -> list[str]:
    """One sentence for each planned operator, then for each refused candidate."""
    planned = [f"{op.kind} {op.shard}: {op.reason}" for op in plan.operators]
    return planned + [refusal.sentence() for refusal in plan.refused]


def _hot(draft: Draft) -> list[tuple[int, Crossing]]:
    """Live instances that will exceed their limit, highest cost first; refuses the others."""
    limit = draft.limit[:, :, None]
    peak = (draft.upper / limit).max(axis=(1, 2))
    hot: list[tuple[int, Crossing]] = []
    for i, instance in enumerate(draft.table.instances):
        if not instance.alive:
            draft.refusals[i] = [Refusal(Reason.NOT_ALIVE, instance.id)]
            continue
        crossing = draft.crossing(i) if peak[i] > 1.0 + TOLERANCE else None
        if crossing is not None:
            hot.append((i, crossing))
            continue
        threshold = draft.config.risk.threshold
        if draft.table.used[i] > threshold:
            draft.refusals[i] = [Refusal(Reason.PASSES_BY_ITSELF, instance.id)]
        else:
            share = float(peak[i]) * threshold
            draft.refusals[i] = [
                Refusal(Reason.BELOW_THRESHOLD, instance.id, None, share, threshold)
            ]
    hot.sort(key=lambda pair: (-pair[1].overload_cost, pair[1].instance))
    return hot


def _not_due(operator: Operator, now_s: float) -> Refusal:
    return Refusal(
        Reason.NOT_DUE,
        operator.source,
        operator.shard,
        value=operator.start_s,
        limit=operator.start_s - now_s,
    )
