"""A coordinator's Prometheus metrics: cells, instances, moves, plans by reason, forecasts.

Every coordinator reads moves from the metadata every few seconds, so that a dashboard sees the
same at any of them. Plans and forecasts are those of the process that made them.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import structlog
from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from coordinator.migration.records import END_STATES, MigrationRecord, State
from logstore.base.background import Background
from logstore.base.errors import LogstoreError
from profiler.anomaly import AnomalyKind
from profiler.scoreboard import Score

if TYPE_CHECKING:
    from coordinator.migration.ledger import Ledger
    from coordinator.planning.notes import PlanCounts
    from coordinator.statistics.intake import StatisticsIntake

REFRESH_S = 2.0
BLACKOUT_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_log = structlog.get_logger(__name__)


class Fetched:
    """Values that a scrape cannot wait for: the migrations as last read, the scores.

    `fresh` is False before the first answer and while the metadata does not answer.
    """

    def __init__(
        self,
        ledger: "Ledger",
        score: Callable[[], Awaitable[Mapping[str, Mapping[int, Score]]]],
    ) -> None:
        self._ledger, self._score = ledger, score
        self._tasks = Background("the figures of moves")
        self.moves: list[MigrationRecord] = []
        self.scores: Mapping[str, Mapping[int, Score]] = {}
        self.fresh = False

    def start(self) -> None:
        self._tasks.start(self._run())

    async def close(self) -> None:
        await self._tasks.stop()

    async def _run(self) -> None:
        while True:
            try:
                self.moves = await self._ledger.all()
                self.scores = await self._score()
                self.fresh = True
            except LogstoreError as e:
                self.fresh = False
                _log.warning("the migrations are not shown", why=e.message)
            await asyncio.sleep(REFRESH_S)


class CoordinatorCollector(Collector):
    """Collects on the coordinator's loop."""

    def __init__(
        self,
        fetched: Fetched,
        plans: "Callable[[], PlanCounts]",
        intake: "StatisticsIntake",
        now_s: Callable[[], float],
        cells: Callable[[], list[str]],
        broker_up: Callable[[], bool | None] = lambda: None,
        wall_us: Callable[[], int] = lambda: 0,
    ) -> None:
        """`cells`: those led here. `broker_up`: whether the feeds' broker answered, None: unknown.
        `wall_us`: the clock of the migrations' records."""
        self._fetched, self._plans, self._intake = fetched, plans, intake
        self._now_s, self._cells = now_s, cells
        self._broker_up, self._wall_us = broker_up, wall_us

    def collect(self) -> Iterator[Metric]:
        led = GaugeMetricFamily("logstore_cell_leader", "1: led here.", labels=["cell"])
        for cell in self._cells():
            led.add_metric([cell], 1)
        yield led
        broker = GaugeMetricFamily(
            "logstore_feed_broker_up",
            "1: the feeds' broker answered; only at the leader of cell 0.",
        )
        if (up := self._broker_up()) is not None:
            broker.add_metric([], up)
        yield broker
        yield from self._instances()
        yield from self._migrations()
        yield from self._planned()
        yield from self._forecasts()

    def _instances(self) -> Iterator[Metric]:
        alive = GaugeMetricFamily(
            "logstore_instance_alive", "1: its reports arrive.", labels=["instance"]
        )
        load = GaugeMetricFamily(
            "logstore_instance_load_ratio",
            "Largest used share of its capacities.",
            labels=["instance"],
        )
        shares = GaugeMetricFamily(
            "logstore_instance_used_ratio",
            "Used share of a capacity, stated or estimated; the largest is the instance's load.",
            labels=["instance", "of"],
        )
        for instance, status in self._intake.statuses().items():
            for resource, share in status.loads.items():
                shares.add_metric([instance, resource.value], share)
            alive.add_metric([instance], self._intake.alive(instance, self._now_s()))
            load.add_metric([instance], status.load)
        yield from (alive, load, shares)

    def _migrations(self) -> Iterator[Metric]:
        states = Counter(m.state for m in self._fetched.moves)
        active = GaugeMetricFamily(
            "logstore_migrations_active", "Moves under way, by state.", labels=["state"]
        )
        ended = CounterMetricFamily(
            "logstore_migrations", "Moves that ended, by outcome.", labels=["state"]
        )
        for state in State:
            (ended if state in END_STATES else active).add_metric([state.value], states[state])
        yield from (active, ended)
        yield from self._stuck()
        done = [m for m in self._fetched.moves if m.state in END_STATES]
        yield CounterMetricFamily(
            "logstore_migration_bytes",
            "Bytes copied by moves.",
            value=sum(m.bytes for m in self._fetched.moves),
        )
        yield _histogram(
            "logstore_migration_blackout_seconds",
            "How long sources held appends at the hand-over.",
            [m.blackout_ms / 1e3 for m in done if m.blackout_ms is not None],
        )
        phases = CounterMetricFamily(
            "logstore_migration_phase_seconds", "Time that ended moves spent.", labels=["state"]
        )
        for state, seconds in _phase_seconds(done).items():
            phases.add_metric([state.value], seconds)
        yield phases

    def _stuck(self) -> Iterator[Metric]:
        """How long moves have been in their states."""
        yield GaugeMetricFamily(
            "logstore_migrations_paused",
            "Moves that a person paused.",
            value=sum(m.active and m.paused for m in self._fetched.moves),
        )
        ages = GaugeMetricFamily(
            "logstore_migration_state_age_seconds",
            "Since when the move that is longest in the state is there; paused ones count too.",
            labels=["state"],
        )
        now_us, oldest = self._wall_us(), dict[str, float]()
        for move in self._fetched.moves:
            if move.active and move.phases:
                age_s = max(0.0, (now_us - move.phases[-1].at_us) / 1e6)
                oldest[move.state.value] = max(age_s, oldest.get(move.state.value, 0.0))
        for state, age_s in oldest.items():
            ages.add_metric([state], age_s)
        yield ages

    def _planned(self) -> Iterator[Metric]:
        rounds = CounterMetricFamily(
            "logstore_planning_rounds", "Rounds of the planning loop.", labels=["outcome"]
        )
        plans = self._plans()
        for outcome, count in plans.rounds.items():
            rounds.add_metric([outcome], count)
        refused = CounterMetricFamily(
            "logstore_planner_refusals",
            "Candidates refused, by reason (docs/reference/reasons.md).",
            labels=["reason"],
        )
        for reason, count in plans.refused.items():
            refused.add_metric([reason], count)
        started = CounterMetricFamily(
            "logstore_planner_moves", "Moves that the planner started.", value=plans.started
        )
        wanted = CounterMetricFamily(
            "logstore_planner_operators",
            "Changes that plans had due, started or not, by kind and trigger.",
            labels=["kind", "trigger"],
        )
        for (kind, trigger), count in plans.operators.items():
            wanted.add_metric([kind, trigger], count)
        yield from (rounds, refused, started, wanted)

    def _forecasts(self) -> Iterator[Metric]:
        error = GaugeMetricFamily(
            "logstore_forecast_wape_ratio",
            "Sum of absolute errors over the sum of actual loads.",
            labels=["model", "horizon_slots"],
        )
        covered = GaugeMetricFamily(
            "logstore_forecast_coverage_ratio",
            "Share of actual loads inside the interval.",
            labels=["model", "horizon_slots", "level"],
        )
        for model, horizons in self._fetched.scores.items():
            for horizon, score in horizons.items():
                if not score.n:
                    continue
                error.add_metric([model, str(horizon)], score.wape)
                for level, share in (("0.80", score.coverage80), ("0.95", score.coverage95)):
                    if share is not None:
                        covered.add_metric([model, str(horizon), level], share)
        yield from (error, covered)
        unusual = CounterMetricFamily(
            "logstore_anomalies", "Slots of shards that were not as expected.", labels=["kind"]
        )
        for kind in AnomalyKind:
            unusual.add_metric([kind.value], self._intake.anomalies.counts[kind])
        unwatched = GaugeMetricFamily(
            "logstore_anomalies_unwatched_shards", "Shards in which nothing unusual is noticed."
        )
        unwatched.add_metric([], self._intake.anomalies.unwatched)
        yield from (unusual, unwatched)


def _phase_seconds(moves: list[MigrationRecord]) -> dict[State, float]:
    spent: dict[State, float] = {}
    for move in moves:
        for phase, following in zip(move.phases, move.phases[1:], strict=False):
            took_s = max(following.at_us - phase.at_us, 0) / 1e6
            spent[phase.state] = spent.get(phase.state, 0.0) + took_s
    return spent


def _histogram(name: str, text: str, values_s: list[float]) -> Metric:
    family = HistogramMetricFamily(name, text)
    buckets = [(f"{b:g}", float(sum(v <= b for v in values_s))) for b in BLACKOUT_BOUNDS_S]
    family.add_metric([], [*buckets, ("+Inf", float(len(values_s)))], sum(values_s))
    return family
