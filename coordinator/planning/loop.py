"""The planning loop: each period a view is made, a plan drawn, and due moves are started.

The leader of each cell runs one. Each draws its plan from the same view, of all shards and
instances, and starts what is about the shards of its own cell (design note 0004).
"""

import asyncio
import functools
from collections import deque
from collections.abc import Collection
from dataclasses import replace

import msgspec
import structlog

from coordinator.catalog.listing import Listing
from coordinator.config import Autopilot, CoordinatorConfig
from coordinator.migration.driver import MigrationDriver
from coordinator.migration.ledger import Proposal
from coordinator.migration.nodes import GrpcNodes
from coordinator.migration.records import ForecastNote, MoveOptions, parse_options
from coordinator.migration.reshape_driver import ReshapeDriver
from coordinator.planning.births import Births
from coordinator.planning.notes import PlanCounts, PlanNote
from coordinator.planning.response_times import ResponseTimes
from coordinator.planning.tuning import PlannerTuning
from coordinator.planning.views import PastForecast, make_view, with_expected
from coordinator.planning.weights import MigrationWeights
from coordinator.statistics.model_trainer import ModelTrainer
from logstore.base.background import Background
from logstore.base.env import Env
from logstore.base.errors import LogstoreError
from logstore.meta.port import MetadataStore
from logstore.meta.records import AUTOPILOT
from logstore.meta.tables import log_table, shard_table, text_table
from sharder.config import PlannerConfig
from sharder.plan import Operator, Plan, plan
from sharder.view import View

PLANS_KEPT_MAX = 1_000
_log = structlog.get_logger(__name__)


class PlanningLoop:
    """Plans over all shards, and starts what the drivers own. `mode` may change while it runs."""

    def __init__(
        self,
        config: CoordinatorConfig,
        env: Env,
        store: MetadataStore,
        learner: ModelTrainer,
        driver: MigrationDriver,
        nodes: GrpcNodes,
        reshapes: ReshapeDriver | None = None,
    ) -> None:
        """`reshapes`: carries out splits and merges; None: they are planned as advice only."""
        self.mode = config.autopilot
        self.move_options = parse_options(
            msgspec.json.encode(config.move),
            MoveOptions(feed="kafka" if config.kafka else "direct"),
        )
        self.tuning = PlannerTuning(config, env, store)
        self.weights = MigrationWeights(store, env)
        self.history: deque[PlanNote] = deque(maxlen=PLANS_KEPT_MAX)
        self.counts = PlanCounts()
        self._config, self._env, self._store = config, env, store
        self._learner, self._intake = learner, learner.intake
        self._driver, self._nodes, self._reshapes = driver, nodes, reshapes
        self._catalog = Listing(store)
        self._sizes: dict[str, int] = {}
        self._slots_before = 0
        self._response_times = ResponseTimes()
        self._newest: PastForecast | None = None
        self._earlier: PastForecast | None = None
        self._tasks = Background("planning")

    async def start(self) -> None:
        """Plan each period, in the mode that was last set by hand, else the configured one."""
        await self._read_mode()
        self._tasks.start(self._run())

    async def _read_mode(self) -> None:
        """Another coordinator may have switched it."""
        stored = await text_table(self._store).get(AUTOPILOT)
        if stored is not None:
            self.mode = Autopilot(stored)

    async def set_mode(self, mode: Autopilot) -> None:
        """Switch, for this leader and those that follow."""
        settings = text_table(self._store)
        await settings.update(AUTOPILOT, lambda _: mode.value, "the autopilot's mode")
        self.mode = mode

    async def close(self) -> None:
        await self._tasks.stop()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._config.planning_period_s)
            try:
                await self.round()
            except LogstoreError as e:
                _log.warning("no plan this period", why=e.message)
            except Exception:
                _log.exception("no plan this period")

    async def round(self) -> PlanNote:
        """One period: plan, and start the due moves if the autopilot is on."""
        at_us = self._env.clock.wall_us()
        await self._read_mode()
        learned = self._intake.slots_learned - self._slots_before
        self._slots_before = self._intake.slots_learned
        expected = self._config.planning_period_s / self._config.wall_s_per_slot
        if self.mode is Autopilot.OFF:
            return self._note(PlanNote(at_us, None, skipped="the autopilot is off"))
        if learned > max(5.0, 5.0 * expected):
            why = f"history is being fed ({learned} slots in a period)"
            return self._note(PlanNote(at_us, None, skipped=why))
        seen, known = await self._look()
        made = await self._learner.call(plan, seen)
        started: list[str] = []
        for operator in made.startable():
            if not self._is_ours(operator):
                continue
            name = await self._begin(operator, known, seen.config.operators_in_flight_max)
            if name is not None:
                started.append(name)
                known.add(name)
        return self._note(PlanNote(at_us, made, tuple(started)))

    def _is_ours(self, operator: Operator) -> bool:
        if operator.kind not in ("split", "merge"):
            return self._driver.owns(operator.shard)
        parents = [operator.shard, operator.partner] if operator.partner else [operator.shard]
        return self._reshapes is not None and self._reshapes.owns(parents)

    async def plan(self) -> Plan:
        """The plan for the present; starts nothing."""
        return await self._learner.call(plan, await self.view())

    async def view(self) -> View:
        """The planner's present view."""
        return (await self._look())[0]

    async def _look(self) -> tuple[View, set[str]]:
        """The planner's present view, and the migrations that it knows."""
        planner = await self._planner_config()
        now_s = self._env.clock.wall_us() / 1e6
        shards = await shard_table(self._store).all()
        instances = await self._catalog.instances()
        await self._measure({s.primary.instance for s in shards})
        migrations = await self._driver.ledger.all()
        reshapes = await self._reshapes.all() if self._reshapes is not None else []
        births = Births.of(await log_table(self._store).all(), reshapes)
        mono_s = self._env.clock.monotonic_s()
        make = functools.partial(
            make_view,
            now_s=now_s,
            mono_s=mono_s,
            config=self._config,
            planner=planner,
            shards=shards,
            instances=instances,
            alive={i.instance: self._intake.alive(i.instance, mono_s) for i in instances},
            intake=self._intake,
            sizes=self._sizes,
            migrations=migrations,
            set_weights=await self.weights.in_force(),
            births=births,
        )
        view = self._response_times.seen(await self._learner.call(make))
        draining = await self._catalog.draining()
        seen = [replace(i, draining=i.id in draining) for i in view.instances]
        whole = with_expected(replace(view, instances=tuple(seen)), self._before_slot(view))
        return whole, {m.id for m in migrations if m.active}

    def _before_slot(self, view: View) -> PastForecast | None:
        """The forecast of the newest view of an earlier slot."""
        if self._newest is None or view.slot > self._newest.slot:
            self._earlier = self._newest
        self._newest = PastForecast.of(view)
        return self._earlier

    async def _planner_config(self) -> PlannerConfig:
        """Splits and merges are carried out where a driver of them is given."""
        made = await self.tuning.config(self.mode)
        if self._reshapes is None:
            return made
        return replace(made, executable=(*made.executable, "split", "merge"))

    async def _measure(self, instances: set[str]) -> None:
        """Bytes of each shard, from the instances that lead them."""
        found = await asyncio.gather(
            *(self._nodes.sizes(name) for name in sorted(instances)), return_exceptions=True
        )
        for sizes in found:
            if isinstance(sizes, dict):
                self._sizes.update(sizes)

    async def _begin(
        self, operator: Operator, known: Collection[str], in_flight_max: int
    ) -> str | None:
        if operator.kind in ("split", "merge"):
            return await self._reshape(operator)
        seen = operator.forecast
        note = ForecastNote(seen.mean, seen.lower, seen.upper, seen.horizon_s)
        proposal = Proposal(
            shard=operator.shard,
            target=operator.target,
            strategy=operator.strategy,
            options=self.move_options,
            trigger=operator.trigger.value,
            reason=operator.reason,
            risk=operator.risk,
            forecast=note,
            seen=known,
            in_flight_max=in_flight_max,
        )
        try:
            record = await self._driver.propose(proposal)
        except LogstoreError as e:
            _log.warning("a planned move was not started", shard=operator.shard, why=e.message)
            return None
        _log.info("move started", migration=record.id, shard=record.shard, reason=record.reason)
        return record.id

    async def _reshape(self, operator: Operator) -> str | None:
        """Split a shard where it is (a later plan moves the part), or join it with a neighbour."""
        if self._reshapes is None:
            return None
        kind, parents, at = operator.kind, [operator.shard], operator.key
        if kind == "merge" and operator.partner is not None:
            parents, at = [operator.shard, operator.partner], None
        try:
            draft = await self._reshapes.draft(parents, at, operator.trigger.value, operator.reason)
            record = await self._reshapes.propose(draft)
        except LogstoreError as e:
            _log.warning(f"a planned {kind} was not started", shard=operator.shard, why=e.message)
            return None
        _log.info(f"{kind} started", id=record.id, shard=operator.shard, reason=operator.reason)
        return record.id

    def _note(self, note: PlanNote) -> PlanNote:
        self.history.append(note)
        if note.plan is None:
            self.counts.add(note, (), ())
            return note
        due = [op for op in note.plan.operators if op.due and self._is_ours(op)]
        refused = [r for r in note.plan.refused if self._driver.owns(r.shard or r.instance)]
        self.counts.add(note, due, refused)
        return note
