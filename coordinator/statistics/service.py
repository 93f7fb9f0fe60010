"""coordinator.v1.Statistics: reports in; statistics, heatmaps, forecasts out."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import msgspec
import structlog

from coordinator.answers.base import fields_of
from coordinator.answers.statistics import (
    ForecastAnswer,
    Heatmap,
    InstanceLimits,
    InstanceNow,
    ModelScore,
    ShardNow,
    ShardSlot,
    ShardTrend,
    Stats,
    UnusualSlot,
)
from coordinator.config import CoordinatorConfig
from coordinator.rpc_errors import Context, answered, unary
from coordinator.statistics.log_clock import WallClocks
from coordinator.statistics.model_trainer import ModelTrainer
from coordinator.statistics.reports import (
    INSTANCE_CHARS_MAX,
    decode_statistics,
    decode_status,
    decode_totals,
    sound,
)
from coordinator.statistics.shard_rows import shard_now
from coordinator.statistics.state import ceilings, log_of
from logstore.base.env import Env
from logstore.base.errors import (
    InvalidArgumentError,
    UnknownLogError,
    UnknownShardError,
)
from logstore.base.types import ShardStatus
from logstore.meta.port import MetadataStore
from logstore.meta.records import LogRecord
from logstore.meta.tables import log_table, shard_table
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import (
    StatisticsServicer,
)
from profiler.forecast.book import HORIZON_SLOTS_MAX, ForecastBook
from profiler.running import ShardTotals
from profiler.scoreboard import Score
from profiler.types import DataStoreStatus, OpType, ShardStatistics

WARN_S, WARNED_MAX = 60.0, 10_000
"""A report's faults are logged once in this time for each instance, up to this many instances."""

_log = structlog.get_logger(__name__)


class StatisticsService(StatisticsServicer):
    """The calls that fill and read the intake."""

    def __init__(
        self,
        config: CoordinatorConfig,
        env: Env,
        store: MetadataStore,
        learner: ModelTrainer,
        weights: Callable[[], Awaitable[Mapping[str, float]]],
    ) -> None:
        """`weights`: shard -> migration weight; others have 1."""
        self._config, self._env = config, env
        self._store, self._learner, self._intake = store, learner, learner.intake
        self._weights = weights
        self._clocks = WallClocks(config.alive_s)
        self._warned_s: dict[str, float] = {}

    @unary
    async def Report(self, request: pb.ReportRequest, context: Context) -> pb.ReportResponse:
        if len(request.instance) > INSTANCE_CHARS_MAX:
            raise InvalidArgumentError(
                f"instance has {len(request.instance)} characters, the limit is"
                f" {INSTANCE_CHARS_MAX}"
            )
        data = request.shard_statistics_json
        try:
            statistics, refused = decode_statistics(data) if data else ([], [])
        except msgspec.DecodeError as e:
            raise InvalidArgumentError(f"report of {request.instance}: {e}") from None
        status = None
        try:
            status = decode_status(request.status_json) if request.status_json else None
        except msgspec.DecodeError as e:
            refused.append(f"status: {e}")
        logs = await log_table(self._store).all()
        given_out = {log.name: log.next_shard for log in logs}
        told, wrong = sound(statistics, request.instance, self._intake.slot_s, given_out)
        totals, bad = (
            decode_totals(request.totals_json, given_out) if request.totals_json else ([], [])
        )
        self._warn(request.instance, [*refused, *wrong, *bad])
        clock = self._env.clock
        now_s, now_us = clock.monotonic_s(), clock.wall_us()
        self._clocks.tell(request.instance, request.wall_us, now_us, now_s)
        told = self._in_time(request.instance, told, logs, now_us)
        totals = self._open_in_time(request.instance, totals, logs, now_us)
        by_wall = {log.name for log in logs if not log.options.event_time}
        self._intake.take(
            request.instance, request.incarnation, told, status, now_s, now_us, by_wall, totals
        )
        events = [log.name for log in logs if log.options.event_time]
        return pb.ReportResponse(
            period_s=self._config.report_interval_s,
            slot_s=self._intake.slot_s,
            newest_slots=self._intake.newest_slots(events),
        )

    def _in_time(
        self, instance: str, told: list[ShardStatistics], logs: Sequence[LogRecord], now_us: int
    ) -> list[ShardStatistics]:
        """The statistics in slots of the shared time, without future slots."""
        slot_us = round(self._intake.slot_s * 1e6)
        ahead = self._clocks.slots_ahead(instance, slot_us)
        newest = ceilings(logs, self._clocks.newest_us(now_us), self._intake.slot_s)
        events = {log.name for log in logs if log.options.event_time}
        if ahead:
            told = [
                s if log_of(s.shard) in events else replace(s, slot=s.slot - ahead) for s in told
            ]
            self._warn(instance, [f"its clock is {ahead} slots ahead of the others': corrected"])
        kept = [s for s in told if s.slot <= newest.get(log_of(s.shard), s.slot)]
        if len(kept) < len(told):
            self._warn(instance, [f"{len(told) - len(kept)} statistics are of slots to come"])
        return kept

    def _open_in_time(
        self, instance: str, totals: list[ShardTotals], logs: Sequence[LogRecord], now_us: int
    ) -> list[ShardTotals]:
        """The totals with their open slots in the shared time; of slots to come nothing is said."""
        ahead = self._clocks.slots_ahead(instance, round(self._intake.slot_s * 1e6))
        newest = ceilings(logs, self._clocks.newest_us(now_us), self._intake.slot_s)
        events = {log.name for log in logs if log.options.event_time}
        found = []
        for told in totals:
            log = log_of(told.shard)
            if told.slot is not None:
                slot = told.slot if log in events else told.slot - ahead
                known = slot <= newest.get(log, slot)
                told = replace(told, slot=slot if known else None)
            found.append(told)
        return found

    def _warn(self, instance: str, reasons: Sequence[str]) -> None:
        """Log the first reason, once a minute for each instance."""
        now_s = self._env.clock.monotonic_s()
        if reasons and now_s - self._warned_s.get(instance, -WARN_S) >= WARN_S:
            if len(self._warned_s) >= WARNED_MAX:
                self._warned_s.clear()
            self._warned_s[instance] = now_s
            _log.warning("a report was not taken in full", instance=instance, entries=len(reasons),
                         why=reasons[0][:1_000])  # fmt: skip

    @unary
    async def Stats(self, request: pb.StatsRequest, context: Context) -> pb.JsonResponse:
        """The present load of each shard by copy, its statistics by slot, and the last status of
        each instance."""
        if request.log:
            await self._check_log(request.log)
        history = self._intake.history(request.log)
        now_s = self._env.clock.monotonic_s()
        instances = {
            name: _instance_now(status, alive=self._intake.alive(name, now_s))
            for name, status in sorted(self._intake.statuses().items())
        }
        weights = await self._weights()
        shards = [
            s
            for s in await shard_table(self._store).all()
            if s.status is not ShardStatus.SEALED and request.log in ("", s.log)
        ]
        costs = {name: now.costs for name, now in instances.items()}
        slots = {log: self._slot_over(log) for log in {s.log for s in shards}}

        def answer() -> pb.JsonResponse:
            loads = {
                s.shard: shard_now(
                    s,
                    self._intake.present.load(s.shard, now_s),
                    slots[s.log],
                    weights.get(s.shard, 1.0),
                    costs,
                )
                for s in sorted(shards, key=lambda s: s.shard)
            }
            return _stats(self._intake.slot_s, history, instances, loads, weights)

        return await asyncio.to_thread(answer)

    def _slot_over(self, log: str) -> int | None:
        now_s, slot_s = self._env.clock.monotonic_s(), self._config.wall_s_per_slot
        return self._intake.slot_before_now(log, now_s, slot_s)

    @unary
    async def Heatmap(self, request: pb.HeatmapRequest, context: Context) -> pb.JsonResponse:
        await self._check_log(request.log)
        heatmap = await self._learner.call(self._intake.heatmap_copy, request.log)
        if heatmap is None:
            return answered(Heatmap(starts_hex=[], labels=[], slots=[], counts=[]))
        closed = self._slot_over(request.log)
        answer = await asyncio.to_thread(
            lambda: answered(
                Heatmap(**heatmap.to_json(), closed_slot=closed, strip=heatmap.strip())
            )
        )
        if request.png:
            try:
                from profiler.heatmap_png import render_png

                answer.png = await asyncio.to_thread(render_png, heatmap, request.log)
            except ImportError:
                raise InvalidArgumentError(
                    "a PNG needs matplotlib: pip install 'logstore[demo]'"
                ) from None
        return answer

    @unary
    async def Forecast(self, request: pb.ForecastRequest, context: Context) -> pb.JsonResponse:
        """Forecasts of a shard, or of all (`shard` empty), in ops per slot; the anomalies; and
        its scores, or those of all together."""
        horizon = request.horizon_slots or self._config.horizon_slots
        if horizon > HORIZON_SLOTS_MAX:  # also before the first learned slot
            raise InvalidArgumentError(
                f"horizon_slots is {horizon}, the limit is 1 to {HORIZON_SLOTS_MAX}"
            )
        known = [shard.shard for shard in await shard_table(self._store).all()]
        if request.shard and request.shard not in known:
            raise UnknownShardError(f"shard {request.shard!r} does not exist")
        try:
            found = await self._learner.call(
                self._intake.forecasts,
                [request.shard] if request.shard else known,
                horizon,
                self._env.clock.monotonic_s(),
                self._config.wall_s_per_slot,
            )
        except ValueError as e:
            raise InvalidArgumentError(str(e)) from None
        learned = {shard: self._intake.book.last_slot(shard) for shard in found}
        trends = await self._learner.call(_trends, self._intake.book, tuple(found))
        unusual = await self._learner.call(self._intake.unusual, request.shard or None)
        answer = ForecastAnswer(
            slot_s=self._intake.slot_s,
            wall_s_per_slot=self._config.wall_s_per_slot,
            learned_slot=learned,
            forecasts=dict(sorted(found.items())),
            anomalies=tuple(UnusualSlot(shard=name, **fields_of(a)) for name, a in unusual),
            trends=trends,
            unwatched_shards=self._intake.anomalies.unwatched,
        )
        if request.score:
            scores = await self._learner.call(self._intake.score, request.shard or None)
            answer = msgspec.structs.replace(answer, score=_scores(scores))
        return answered(answer)

    async def _check_log(self, name: str) -> None:
        if await log_table(self._store).entry(name) is None:
            raise UnknownLogError(f"log {name!r} does not exist")


def _trends(book: ForecastBook, shards: Sequence[str]) -> dict[str, ShardTrend]:
    """In the thread that owns the models; a shard that was deleted meanwhile is left out."""
    return {
        shard: ShardTrend(**fields_of(book.trend(shard)), weights=book.weights(shard))
        for shard in sorted(shards)
        if shard in book
    }


def _scores(scores: Mapping[str, Mapping[int, Score]]) -> dict[str, dict[str, ModelScore]]:
    return {
        model: {str(horizon): ModelScore(**fields_of(score)) for horizon, score in by.items()}
        for model, by in scores.items()
    }


def _instance_now(status: DataStoreStatus, *, alive: bool) -> InstanceNow:
    held = fields_of(status) | {"capacity": InstanceLimits(**fields_of(status.capacity))}
    return InstanceNow(**held, available=status.available, alive=alive)


def _stats(
    slot_s: float,
    history: Mapping[str, Sequence[ShardStatistics]],
    instances: dict[str, InstanceNow],
    loads: dict[str, ShardNow],
    weights: Mapping[str, float],
) -> pb.JsonResponse:
    shards = {
        shard: tuple(_slot(s, weights.get(shard, 1.0)) for s in told)
        for shard, told in sorted(history.items())
    }
    return answered(Stats(slot_s=slot_s, shards=shards, instances=instances, loads=loads))


def _slot(told: ShardStatistics, weight: float) -> ShardSlot:
    counts = {op: told.counts.get(op, 0) for op in OpType}
    log = log_of(told.shard)
    known = fields_of(told) | {"counts": counts, "migration_weight": weight}
    return ShardSlot(**known, log=log, queries_per_s=told.queries_per_s)
