"""kill -9 of a writing process at random points: what was acked is there, nothing is torn (I3)."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from logstore.base.types import Durability, Position
from logstore.engine.rocks import RocksEngine, marks
from tests.process.engine.writer import PRODUCER, SMALL, nth_batch
from tests.support.engine import ALL, batches_of, keys_in

ROOT = Path(__file__).parents[3]


class Writers:
    """The forking process of `tests.process.engine.writer`."""

    def __init__(self, path: Path, durability: Durability, seed: int) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.process.engine.writer",
            str(path),
            durability.value,
            str(seed),
        ]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def run_until_killed(self, acks: int) -> list[str]:
        """Kill a new writer somewhere after its `acks`-th ack; returns all acks it wrote."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        lines, pid = list[str](), 0
        while not pid or len(lines) < acks:
            line = self._line()
            if line.startswith("pid "):
                pid = int(line[4:])
            else:
                assert line != "dead", "the writer ended by itself"
                lines.append(line)
        os.kill(pid, signal.SIGKILL)
        while (line := self._line()) != "dead":
            lines.append(line)
        return lines

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            more = self.process.stdout.read(1)
            assert more, "the forking process ended"
            line += more
        return line.decode().strip()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.mark.parametrize(
    ("durability", "kills"), [(Durability.OS, 40), (Durability.FSYNC, 12)], ids=["os", "fsync"]
)
def test_every_acked_record_survives_kills(
    tmp_path: Path, durability: Durability, kills: int
) -> None:
    seed, rng, path = 11, random.Random(5), tmp_path / "db"
    acked, acked_sequence = Position(), 0
    writers = Writers(path, durability, seed)
    for _ in range(kills):
        for line in writers.run_until_killed(rng.randint(1, 25)):
            end, chain, sequence = line.split()
            acked, acked_sequence = Position(int(end), bytes.fromhex(chain)), int(sequence)
        engine = RocksEngine.open(path, write_buffer_bytes=SMALL)
        try:
            assert engine.end(1).end >= acked.end
            assert engine.position_at(1, acked.end) == acked
            assert not engine.replicas()[0].tail_lost  # no false alarm, wherever it was killed
            assert not list(path.glob("damaged-*"))
            assert marks.read(path)[1].end == engine.end(1).end
            assert engine.replicas()[0].high_watermark == engine.end(1).end  # one atomic write
            last = engine.producers(1)[PRODUCER][-1]
            assert last.sequence >= acked_sequence
            assert last.offset + last.count == engine.end(1).end
        finally:
            engine.close()
    writers.close()
    check_all(path, seed)


def test_a_kill_between_cuts_drops_and_writes_is_no_loss(tmp_path: Path) -> None:
    """A mark is never above its log: it follows a write, and goes before a cut or a drop."""
    path, rng = tmp_path / "db", random.Random(7)
    for _ in range(25):
        command = [sys.executable, "-m", "tests.process.engine.cutter", str(path)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, bufsize=0)
        assert process.stdout is not None
        for _ in range(rng.randint(1, 40)):
            assert process.stdout.read(1) == b"."
        process.kill()
        process.wait()
        process.stdout.close()
        engine = RocksEngine.open(path, write_buffer_bytes=SMALL)
        assert not any(m.tail_lost or m.damage for m in engine.replicas())
        assert not list(path.glob("damaged-*"))
        for meta in engine.replicas():
            end = engine.verify_chain(meta.replica_id, meta.base, ALL)
            assert end == engine.end(meta.replica_id)
        engine.close()


def check_all(path: Path, seed: int) -> None:
    """Each batch is what the writer makes at its place; the index and the chain agree."""
    engine = RocksEngine.open(path, write_buffer_bytes=SMALL)
    at, sequence, counts = Position(), 0, dict[bytes, int]()
    for batch in batches_of(engine, 1):
        sequence += 1
        assert batch == nth_batch(seed, at, sequence)
        at = Position(batch.end, batch.chain_after)
        for key in keys_in(batch):
            counts[key] = counts.get(key, 0) + 1
    assert engine.verify_chain(1, Position(), ALL) == at == engine.end(1)
    assert {k: engine.count_key(1, k, ALL) for k in counts} == counts
    entries = engine.producers(1)[PRODUCER]
    assert [e.sequence for e in entries] == list(range(sequence - len(entries) + 1, sequence + 1))
    engine.close()
