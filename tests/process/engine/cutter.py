"""A process that creates, writes, truncates, trims, retires and drops copies until it is killed.

`python -m tests.process.engine.cutter DIR` says a dot after each step.
"""

import os
import random
import sys

from logstore.base.types import Durability
from logstore.engine.port import ReplicaMeta, Retired
from logstore.engine.rocks import RocksEngine
from tests.process.engine.writer import SMALL
from tests.support.engine import ALL, append

IDS = (1, 2, 3)


def step(engine: RocksEngine, rng: random.Random) -> None:
    replica_id = rng.choice(IDS)
    held = {m.replica_id: m for m in engine.replicas()}
    if replica_id in {c.meta.replica_id for c in engine.retired()}:
        rng.choice((engine.restore_replica, engine.drop_replica))(replica_id)
    elif replica_id not in held:
        engine.create_replica(ReplicaMeta(replica_id, f"log/{replica_id}"))
    else:
        end, base = engine.end(replica_id).end, held[replica_id].base.end
        kind = rng.choices(("write", "truncate", "trim", "drop", "retire"), (60, 15, 5, 5, 5))[0]
        if kind == "write":
            durability = rng.choice((Durability.OS, Durability.OS, Durability.FSYNC))
            append(engine, replica_id, [b"k"] * rng.randint(1, 20), durability=durability)
        elif kind == "truncate" and end > base:
            at = engine.read(replica_id, rng.randrange(base, end), ALL, 1)[0].base_offset
            engine.truncate(replica_id, at)
        elif kind == "trim":
            engine.trim(replica_id, rng.randint(base, end))
        elif kind == "drop":
            engine.drop_replica(replica_id)
        else:
            engine.retire_replica(replica_id, Retired("test", 1, 1, 2))


def main(path: str) -> None:
    engine = RocksEngine.open(path, write_buffer_bytes=SMALL)
    rng = random.Random(os.urandom(8))
    while True:
        step(engine, rng)
        os.write(1, b".")


if __name__ == "__main__":
    main(sys.argv[1])
