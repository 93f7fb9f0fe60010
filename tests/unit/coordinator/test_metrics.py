"""What a coordinator shows over HTTP: cells, instances, moves, plans by reason."""

import asyncio
from dataclasses import replace
from pathlib import Path

from coordinator.config import Autopilot, CoordinatorConfig
from coordinator.migration.records import MigrationRecord, Phase, State, encode_migration
from coordinator.planning.notes import PlanCounts, PlanNote
from coordinator.server import CoordinatorServer
from logstore.base.env import Env
from logstore.meta.port import Put
from logstore.meta.records import MIGRATIONS, Member
from sharder.config import PlanMode
from sharder.operators import Plan, Refusal
from sharder.reasons import Reason
from tests.support.statistics import status
from tests.unit.node.test_metrics import fetch, labels, scrape

DONE = MigrationRecord(
    id="m1",
    log="orders",
    shard="orders/0",
    source=Member("a", 1, 1),
    target_instance="b",
    created_us=1_000_000,
    state=State.COMPLETED,
    phases=(
        Phase(State.PLANNED, 1_000_000),
        Phase(State.PREPARING, 1_500_000),
        Phase(State.COMPLETED, 4_000_000),
    ),
    bytes=5_000,
    blackout_ms=8.0,
)


async def test_moves_instances_and_cells(tmp_path: Path) -> None:
    config = CoordinatorConfig(
        data=tmp_path, port=0, autopilot=Autopilot.OFF, metrics_listen="127.0.0.1:0"
    )
    server = CoordinatorServer(config, Env())
    records = [DONE, replace(DONE, id="m2", state=State.RAMPING, paused=True)]
    puts = [Put(f"{MIGRATIONS}{r.id}", encode_migration(r)) for r in records]
    await server.store.txn([], puts)
    await server.start()
    try:
        server.intake.take("a", 1, [], status("a"), server._env.clock.monotonic_s(), 0)
        async with asyncio.timeout(20):
            while (await fetch(server.metrics_address, "/readyz"))[0] != 200:
                await asyncio.sleep(0.02)
        seen = await scrape(server.metrics_address)
    finally:
        await server.stop()
    assert seen["logstore_cell_leader", labels(cell="0")] == 1
    assert seen["logstore_instance_alive", labels(instance="a")] == 1
    assert seen["logstore_migrations_total", labels(state="completed")] == 1
    assert seen["logstore_migrations_total", labels(state="rolled-back")] == 0
    assert seen["logstore_migrations_active", labels(state="ramping")] == 1
    assert seen["logstore_migrations_paused", labels()] == 1
    age = "logstore_migration_state_age_seconds"
    assert seen[age, labels(state="ramping")] > 3600  # since 1970
    assert [key for key in seen if key[0] == age] == [(age, labels(state="ramping"))]
    assert seen["logstore_migration_bytes_total", labels()] == 10_000
    assert seen["logstore_migration_blackout_seconds_bucket", labels(le="0.01")] == 1
    assert seen["logstore_migration_blackout_seconds_bucket", labels(le="0.005")] == 0
    spent = "logstore_migration_phase_seconds_total"
    assert seen[spent, labels(state="planned")] == 0.5
    assert seen[spent, labels(state="preparing")] == 2.5


def test_plans_are_counted_by_reason() -> None:
    counts = PlanCounts()
    refused = (Refusal(Reason.COOLDOWN, "a", "orders/0"), Refusal(Reason.COOLDOWN, "a", "orders/1"))
    plan = Plan(0.0, 0, PlanMode.ACTIVE, 60.0, (), (), refused)
    counts.add(PlanNote(1, plan, ("m1",)), (), refused[:1])
    counts.add(PlanNote(2, None, skipped="the autopilot is off"), (), ())
    other = PlanCounts()
    other.add(PlanNote(1, plan), (), refused[1:])
    counts = PlanCounts.total([counts, other])
    assert counts.rounds == {"made": 2, "skipped": 1}
    assert counts.refused == {"cooldown": 2}
    assert counts.started == 1
