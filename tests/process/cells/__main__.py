"""`python -m tests.process.cells --rounds 10`: kill -9 of a coordinator until its cells are served.

Three coordinators, four cells, a real etcd. A cell is served when a coordinator that lives answers
a dry-run move of one of its shards, which only the cell's leader does. The killed one starts again
and gets its share back before the next round.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import logstore
from bench.services.etcd import etcd
from coordinator.cells.assignment import cell_names, cell_of, owners
from logstore.base.errors import LogstoreError
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import MigrationsStub
from logstore.proto.status import called
from tests.process.cells.processes import CELLS_COUNT, Fleet, fleet

SHARDS = 16


async def served_s(address: str, shard: str, began_s: float) -> float:
    """Seconds from `began_s` until a call about the shard is answered through `address`."""
    request = pb.MoveRequest(shard=shard, target="b", dry_run=True)
    async with open_channel(address) as channel:
        while True:
            try:
                async with called():
                    await MigrationsStub(channel).Move(request, timeout=20)
                return time.monotonic() - began_s
            except LogstoreError:
                await asyncio.sleep(0.02)


async def round_(f: Fleet, number: int) -> list[float]:
    """Kill one that leads cells; seconds until each of them was served."""
    cells = cell_names(CELLS_COUNT)
    before = owners(cells, f.addresses)
    await f.settled(before)
    victims = sorted(set(before.values()))
    victim = victims[number % len(victims)]
    asked = next(a for a in f.addresses if a != victim)
    shards = {cell_of(f"x/{n}", CELLS_COUNT): f"x/{n}" for n in range(SHARDS)}
    began_s = time.monotonic()
    await f.kill(victim)
    mine = [cell for cell in cells if before[cell] == victim]
    found = await asyncio.gather(*(served_s(asked, shards[c], began_s) for c in mine))
    await f.start_coordinator(victim)
    return list(found)


async def main(rounds: int) -> None:
    with etcd() as service, tempfile.TemporaryDirectory() as folder:
        async with fleet(service.address, Path(folder), 3) as f:
            for address in f.addresses:
                await f.start_coordinator(address)
            await asyncio.gather(f.start_instance("a"), f.start_instance("b"))
            async with logstore.connect(",".join(f.addresses)) as db:
                while True:
                    try:
                        await db.create_log("x", shards=SHARDS, instances=["a"] * SHARDS)
                        break
                    except LogstoreError:
                        await asyncio.sleep(0.1)
            worst = []
            for number in range(rounds):
                found = await round_(f, number)
                worst.append(max(found))
                print(f"round {number + 1}: " + ", ".join(f"{s:.2f} s" for s in found), flush=True)
    print(f"last cell served: p50 {statistics.median(worst):.2f} s, max {max(worst):.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.process.cells", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    asyncio.run(main(parser.parse_args().rounds))
