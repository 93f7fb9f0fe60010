"""R2.7: coordinators share the shards; each cell has a leader, and another follows when it dies."""

import asyncio
import time
from pathlib import Path

import pytest

import logstore
from coordinator.cells.assignment import cell_names, cell_of, cell_of_all, owners
from tests.process.cells.processes import CELLS_COUNT, fleet
from tests.process.cells.test_failover import created
from tests.process.rows.cluster_command import told_json
from tests.support.rows import record

pytestmark = pytest.mark.timeout(300)
FOLLOWED_S_MAX = 15.0
"""The budget is 5 s; a test machine may be busy."""


async def leaders(at: str) -> dict[str, str]:
    rows = await told_json(at, "cells")
    assert [row["cell"] for row in rows if row["log_wide"]] == ["0"]
    return {row["cell"]: row["leader"] for row in rows}


async def test_r2_7_each_cell_has_a_leader_that_plans_and_another_follows(
    etcd_address: str, tmp_path: Path
) -> None:
    cells = cell_names(CELLS_COUNT)
    async with fleet(etcd_address, tmp_path, 3, "--planning-period-s", "1") as f:
        for address in f.addresses:
            await f.start_coordinator(address)
        await asyncio.gather(f.start_instance("a"), f.start_instance("b"))
        shared = owners(cells, f.addresses)
        await f.settled(shared)
        assert await leaders(f.addresses[0]) == shared
        victim, rest = shared["0"], [a for a in f.addresses if a != shared["0"]]
        async with logstore.connect(",".join(rest)) as db:
            log = await created(db, "orders", 8)
            await log.append_many([b"k%d" % n for n in range(200)], [b"v"] * 200)
            # A split and a move of a shard that cell 0 does not lead, asked of any coordinator.
            shard = next(f"orders/{n}" for n in range(8) if cell_of(f"orders/{n}", 4) != "0")
            split = await told_json(rest[0], "split", shard)
            assert cell_of_all(split["parents"], CELLS_COUNT) != "0"
            began = time.monotonic()
            await f.kill(victim)
            await f.settled(owners(cells, rest), FOLLOWED_S_MAX)
            followed_s = time.monotonic() - began
            assert await leaders(rest[0]) == owners(cells, rest)
            await created(db, "later", 2)  # cell 0 serves at its new leader
            assert len([r async for r in log.read()]) == 200
    figure = f"4 cells on 3 coordinators; after kill -9 of one, led again in {followed_s:.1f} s"
    record("R2.7", command="logstore cells", figure=figure)
