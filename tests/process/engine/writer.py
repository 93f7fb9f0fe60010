"""Processes that append until they are killed, each ack on stdout before the next write.

`python -m tests.process.engine.writer DIR os|fsync SEED` imports all there is once, and then, for
each line on stdin, forks one writer (0.4 s faster than a new interpreter), says `pid N`, and says
`dead` when it ended. A writer makes replica 1 if DIR has none and goes on after the log's end.
Every batch is a function of the seed and its offset, so a reader can tell what must be there.
"""

import os
import random
import sys

from logstore.base.types import Durability, Position, ProducerSpan
from logstore.engine.batch import StoredBatch
from logstore.engine.port import ReplicaMeta, ReplicaWrite
from logstore.engine.rocks import RocksEngine
from tests.support.engine import batch_at

SMALL = 256 * 1024
PRODUCER = 7


def nth_batch(seed: int, at: Position, sequence: int) -> StoredBatch:
    rng = random.Random(f"{seed}/{at.end}")
    keys = [b"key-%d" % rng.randrange(100) for _ in range(rng.randint(1, 40))]
    span = ProducerSpan(PRODUCER, sequence, len(keys))
    return batch_at(at, keys, spans=[span], value=rng.randbytes(rng.choice((10, 300))))


def main(path: str, durability: str, seed: int) -> None:
    engine = RocksEngine.open(path, write_buffer_bytes=SMALL)
    if not engine.replicas():
        engine.create_replica(ReplicaMeta(1, "log/1"))
    produced = engine.producers(1).get(PRODUCER)
    sequence = produced[-1].sequence if produced else 0
    while True:
        batches, at = [], engine.end(1)
        for _ in range(random.Random(f"{seed}/{at.end}/group").randint(1, 3)):
            sequence += 1
            batches.append(nth_batch(seed, at, sequence))
            at = Position(batches[-1].end, batches[-1].chain_after)
        engine.write([ReplicaWrite(1, batches, at.end)], Durability(durability))
        engine.index_step(1_000)
        os.write(1, b"%d %s %d\n" % (at.end, at.chain.hex().encode(), sequence))


if __name__ == "__main__":
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
        os.write(1, b"pid %d\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"dead\n")
