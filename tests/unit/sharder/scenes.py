"""Views for the planner's tests, and what a view looks like after a plan was carried out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sharder.config import PlannerConfig
from sharder.plan import Operator, Plan
from sharder.view import ForecastView, InstanceView, MoveHistory, ShardView, View

HOUR_S = 3600.0
MB = 1_000_000


def forecast(mean: Sequence[float], half: float | Sequence[float] = 0.0) -> ForecastView:
    """A forecast with an 80 % interval of mean +- half."""
    means = np.asarray(mean, dtype=float)
    halves = np.broadcast_to(np.asarray(half, dtype=float), means.shape)
    return ForecastView(
        mean=tuple(means.tolist()),
        lower80=tuple((means - halves).tolist()),
        upper80=tuple((means + halves).tolist()),
        model="test",
    )


def shard(
    name: str,
    instance: str,
    mean: Sequence[float],
    half: float | Sequence[float] = 0.0,
    *,
    size: int = 10 * MB,
    **more: object,
) -> ShardView:
    """A shard whose present rate is that of its first coming period."""
    view = ShardView(
        id=name,
        log="log",
        instance=instance,
        bytes=size,
        ops_per_s=float(mean[0]),
        bytes_per_s=float(mean[0]) * 100.0,
        forecast=forecast(mean, half),
    )
    return replace(view, **more)  # type: ignore[arg-type]


def scene(
    shards: Sequence[ShardView],
    capacity: Mapping[str, float],
    config: PlannerConfig | None = None,
    *,
    now_s: float = 0.0,
    period_s: float = HOUR_S,
    moves: MoveHistory | None = None,
) -> View:
    """A view over `shards`; instance loads are the sums of the shards' present rates."""
    instances = []
    for name, ops in capacity.items():
        mine = [s for s in shards if s.instance == name]
        instances.append(
            InstanceView(
                id=name,
                capacity_ops_per_s=ops,
                ops_per_s=sum(s.ops_per_s for s in mine),
                bytes_per_s=sum(s.bytes_per_s for s in mine),
                stored_bytes=sum(s.bytes for s in mine),
            )
        )
    return View(
        now_s=now_s,
        period_s=period_s,
        slot=int(now_s // period_s),
        shards=tuple(shards),
        instances=tuple(instances),
        moves=moves or MoveHistory(),
        config=config or PlannerConfig(),
    )


def with_instance(view: View, name: str, **changes: object) -> View:
    """The view with fields of one instance changed."""
    changed = tuple(
        replace(i, **changes) if i.id == name else i  # type: ignore[arg-type]
        for i in view.instances
    )
    return replace(view, instances=changed)


def carried_out(view: View, plan: Plan) -> View:
    """The view after all operators of `plan` were completed at once."""
    planned = {op.shard: op for op in plan.operators}
    gone = {op.partner for op in plan.operators if op.partner is not None}
    by_id = {s.id: s for s in view.shards}
    shards = [
        _after(s, planned[s.id], view, by_id) if s.id in planned else s
        for s in view.shards
        if s.id not in gone
    ]
    loads = {i.id: [s for s in shards if s.instance == i.id] for i in view.instances}
    instances = tuple(
        replace(
            i,
            ops_per_s=sum(s.ops_per_s for s in loads[i.id]),
            bytes_per_s=sum(s.bytes_per_s for s in loads[i.id]),
            stored_bytes=sum(s.bytes for s in loads[i.id]),
        )
        for i in view.instances
    )
    return replace(view, shards=tuple(shards), instances=instances)


def _after(shard: ShardView, op: Operator, view: View, by_id: Mapping[str, ShardView]) -> ShardView:
    if op.kind == "merge":
        upper = by_id[op.partner or ""]
        assert shard.forecast is not None
        assert upper.forecast is not None
        both = [a + b for a, b in zip(shard.forecast.mean, upper.forecast.mean, strict=True)]
        return replace(
            shard,
            end=upper.end,
            bytes=shard.bytes + upper.bytes,
            ops_per_s=shard.ops_per_s + upper.ops_per_s,
            bytes_per_s=shard.bytes_per_s + upper.bytes_per_s,
            forecast=forecast(both),
            opened_s=view.now_s,
        )
    if op.kind == "replicate":
        kept = tuple(n for n in shard.in_sync if n != op.source)
        return replace(shard, in_sync=(*kept, op.target))
    in_sync = tuple(n for n in shard.in_sync if n != op.target)
    if op.kind == "switch":
        in_sync = (*in_sync, op.source)
    return replace(
        shard,
        instance=op.target,
        in_sync=in_sync,
        last_moved_s=view.now_s,
        last_moved_from=op.source,
    )


def diurnal(peak: float, trough: float, peak_hour: int, hours: int = 24) -> list[float]:
    """Hourly rates from hour 0: a cosine with its top at `peak_hour`."""
    k = np.arange(hours)
    wave = (1 + np.cos(2 * np.pi * (k - peak_hour) / 24)) / 2
    return [float(v) for v in trough + (peak - trough) * wave**3]
