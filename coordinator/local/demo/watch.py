"""A cluster seen from outside: read once a second, by the public API."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, TypeVar

from coordinator.answers.base import decode
from coordinator.answers.plans import PlanAnswer
from coordinator.answers.statistics import (
    ForecastAnswer,
    Heatmap,
    InstanceNow,
    Stats,
)
from coordinator.migration.answers import Migration, MigrationRows
from logstore.base.errors import LogstoreError
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc as rpc
from logstore.proto.status import called

T = TypeVar("T")
TIMEOUT_S = 10.0
AHEAD_SLOTS = 6
"""Forecasts this far ahead are kept and compared with actual values."""


@dataclass(frozen=True, slots=True)
class ShownForecast:
    """A shard's forecast for one slot, AHEAD_SLOTS before."""

    mean: float
    lower: float
    upper: float


@dataclass(slots=True)
class Watch:
    """The newest answers, and the history that the report needs."""

    address: str
    log: str
    statistics: Stats | None = None
    forecast: ForecastAnswer | None = None
    heatmap: Heatmap | None = None
    plan: PlanAnswer | None = None
    migrations: tuple[Migration, ...] = ()
    plan_reason: str = ""
    said: dict[tuple[str, int], ShownForecast] = field(default_factory=dict)
    came: dict[tuple[str, int], float] = field(default_factory=dict)
    missed: int = 0
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no migration is active."""

    async def run(self, period_s: float = 1.0) -> None:
        """Run until cancelled. A missing answer is counted, and the next one is requested."""
        async with open_channel(self.address) as channel:
            while True:
                try:
                    await self.look(channel)
                except LogstoreError:
                    self.missed += 1
                await asyncio.sleep(period_s)

    async def look(self, channel: Any) -> None:
        """Request everything once."""
        statistics, plans = rpc.StatisticsStub(channel), rpc.PlansStub(channel)
        stats = await _ask(statistics.Stats, pb.StatsRequest(log=self.log), Stats)
        self.statistics = stats
        request = pb.ForecastRequest(score=True)
        forecast = await _ask(statistics.Forecast, request, ForecastAnswer)
        self.forecast = forecast
        self.heatmap = await _ask(statistics.Heatmap, pb.HeatmapRequest(log=self.log), Heatmap)
        plan = await _ask(plans.Plan, pb.PlanRequest(explain=True), PlanAnswer)
        self.plan = plan
        moves = rpc.MigrationsStub(channel)
        self.migrations = (await _ask(moves.List, pb.ListMigrationsRequest(), MigrationRows)).known
        if any(m.active for m in self.migrations):
            self.quiet.clear()
        else:
            self.quiet.set()
        self._keep(stats, forecast, plan)

    async def look_ahead(self, channel: Any) -> None:
        """Request only the forecasts."""
        request = pb.ForecastRequest(horizon_slots=1)
        self.forecast = await _ask(rpc.StatisticsStub(channel).Forecast, request, ForecastAnswer)

    async def look_at_instances(self, channel: Any) -> None:
        """Request only the statistics."""
        self.statistics = await _ask(rpc.StatisticsStub(channel).Stats, pb.StatsRequest(), Stats)

    def _keep(self, stats: Stats, forecast: ForecastAnswer, plan: PlanAnswer) -> None:
        for shard, slots in stats.shards.items():
            by_slot: dict[int, float] = {}
            for one in slots:
                by_slot[one.slot] = by_slot.get(one.slot, 0.0) + one.query_count
            self.came.update({(shard, slot): count for slot, count in by_slot.items()})
        for shard, shown in forecast.forecasts.items():
            if AHEAD_SLOTS in shown.horizon_slots:
                i = shown.horizon_slots.index(AHEAD_SLOTS)
                self.said[shard, shown.made_at_slot + AHEAD_SLOTS] = ShownForecast(
                    shown.mean[i], shown.lower80[i], shown.upper80[i]
                )
        if plan.operators:
            self.plan_reason = plan.operators[0].reason

    @property
    def learned_slot(self) -> int:
        """The newest slot that was learned of every shard; -1 before the first."""
        learned = self.forecast.learned_slot if self.forecast is not None else {}
        return min(learned.values(), default=-1)

    def throttled(self) -> dict[str, int]:
        """Operations refused by each instance's admission since it started."""
        return {name: status.throttled for name, status in self.instances.items()}

    @property
    def instances(self) -> dict[str, InstanceNow]:
        """The last status of each instance."""
        return self.statistics.instances if self.statistics is not None else {}

    def against(self, shards: list[str], slot: int) -> tuple[ShownForecast, float] | None:
        """Sums of forecast and actual load of a slot; None when one is not known."""
        said = [self.said.get((shard, slot)) for shard in shards]
        came = [self.came.get((shard, slot)) for shard in shards]
        known = [s for s in said if s is not None]
        if len(known) < len(shards) or None in came:
            return None
        total = ShownForecast(
            *(sum(getattr(s, name) for s in known) for name in ("mean", "lower", "upper"))
        )
        return total, float(sum(c for c in came if c is not None))


async def _ask(method: Any, request: Any, kind: type[T]) -> T:
    async with called():
        return decode((await method(request, timeout=TIMEOUT_S)).json, kind)
