"""The key index on disk: hashes, runs, merges, cuts in the middle of them, and threads."""

import random
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.base.types import Durability, Position
from logstore.engine.batch import build
from logstore.engine.key_hash import LONG_BYTES, hash_key, hash_keys
from logstore.engine.port import ReplicaWrite
from logstore.engine.rocks import RocksEngine, index_runs
from logstore.engine.rocks.layout import IndexRun, index_key, index_key_of
from logstore.engine.rules import count_in
from tests.support.engine import ALL, append, batch_at, copy_of, index_all


@settings(deadline=None)
@given(st.lists(st.binary(max_size=LONG_BYTES + 20), max_size=50), st.integers(0, 50))
def test_many_keys_hash_as_one_does(keys: list[bytes], cut: int) -> None:
    whole = pa.array([b"pad", *keys], pa.binary()).slice(1)
    parts = [whole.slice(0, cut), whole.slice(cut)]
    assert hash_keys(parts).tolist() == [hash_key(k) for k in keys]


def test_the_hash_is_the_one_on_the_disks() -> None:
    """Changing it would orphan every index that was written."""
    assert [hex(hash_key(k)) for k in (b"", b"a", b"user-00000001", b"x" * 64, b"x" * 65)] == [
        "0x0",
        "0xfc93b8ca6e31d41d",
        "0xf958b38c0cf29341",
        "0x947390b0e66836cb",
        "0xf98431abcf1929f2",
    ]


def test_hashes_spread() -> None:
    keys = pa.array([b"device/%d/%d" % (i % 1000, i // 1000) for i in range(200_000)], pa.binary())
    hashes = hash_keys([keys])
    assert len(set((hashes >> index_runs.POSITION_BITS).tolist())) > 199_990
    assert len(set(hashes.tolist())) == 200_000


def test_runs_are_merged_by_size() -> None:
    size = index_runs.FIRST_TIER_RECORDS
    runs: list[IndexRun] = []
    for i in range(3_000):
        runs.append(IndexRun(i, i * size, (i + 1) * size))
        while chosen := index_runs.choose_merge(runs):
            assert chosen[-1].end - chosen[0].base <= index_runs.RUN_RECORDS_MAX
            at = runs.index(chosen[0])
            assert runs[at : at + len(chosen)] == list(chosen)
            runs[at : at + len(chosen)] = [IndexRun(-i, chosen[0].base, chosen[-1].end)]
        assert len(runs) <= 3 * index_runs.MERGE_FAN_IN + i * size // (
            index_runs.RUN_RECORDS_MAX // 2
        )
    assert [r.base for r in runs[1:]] == [r.end for r in runs[:-1]]


@pytest.fixture
def tiny_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_runs, "FIRST_TIER_RECORDS", 64)
    monkeypatch.setattr(index_runs, "BLOCK_ENTRIES", 16)
    monkeypatch.setattr(index_runs, "_SLICE_ENTRIES", 100)


def check_keys(engine: RocksEngine, replica_id: int, written: list[bytes]) -> None:
    """Every key's count and places, against the plain list of keys by offset."""
    base = engine.replicas()[0].base.end
    for key in sorted(set(written)):
        offsets = [i for i, k in enumerate(written) if k == key]
        found = engine.read_key(replica_id, key, 0, ALL)
        assert sum(count_in(b, key, base, ALL) for b in found) == sum(o >= base for o in offsets)
        assert engine.count_key(replica_id, key, ALL) == len(offsets)


@pytest.mark.usefixtures("tiny_runs")
@pytest.mark.parametrize("seed", range(4))
def test_the_index_stays_right_through_merges_cuts_and_restarts(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    engine = RocksEngine.open(tmp_path / "db")
    r = copy_of(engine)
    written: list[bytes] = []
    for step in range(120):
        keys = [b"key-%d" % rng.randrange(30) for _ in range(rng.randint(1, 60))]
        append(engine, r, keys)
        written += keys
        for _ in range(rng.randrange(4)):  # merges are left half done
            engine.index_step(rng.randint(1, 100))
        if rng.random() < 0.1:
            cut = engine.read(r, rng.randrange(engine.replicas()[0].base.end, len(written)), ALL, 1)
            engine.truncate(r, cut[0].base_offset)
            del written[cut[0].base_offset :]
        if rng.random() < 0.05:
            engine.trim(r, rng.randrange(len(written) + 1))
        if rng.random() < 0.05:
            engine.close()
            engine = RocksEngine.open(tmp_path / "db")
        if step % 10 == 9:
            check_keys(engine, r, written)
    index_all(engine)
    check_keys(engine, r, written)
    engine.close()


@pytest.mark.usefixtures("tiny_runs")
def test_blocks_of_an_interrupted_merge_are_deleted_at_open(tmp_path: Path) -> None:
    engine = RocksEngine.open(tmp_path / "db")
    r = copy_of(engine)
    written: list[bytes] = []
    while index_runs_of(engine) < 9:
        keys = [b"key-%d" % ((len(written) + i) % 50) for i in range(20)]
        append(engine, r, keys)
        written += keys
        engine._replicas[r].index.advance(len(written), 1_000)  # type: ignore[union-attr]
    assert engine._replicas[r].index.merge_step() > 0  # type: ignore[union-attr]
    named = {run.run_id for run in engine._replicas[r].index._runs}  # type: ignore[union-attr]
    assert run_ids_on_disk(engine) > named
    engine.close()
    engine = RocksEngine.open(tmp_path / "db")
    assert run_ids_on_disk(engine) == named
    check_keys(engine, r, written)
    engine.close()


def index_runs_of(engine: RocksEngine) -> int:
    index = engine._replicas[1].index
    assert index is not None
    return len(index._runs)


def run_ids_on_disk(engine: RocksEngine) -> set[int]:
    lower, upper = index_key(1, 0, 0), index_key(2, 0, 0)
    return {index_key_of(key)[1] for key, _ in engine._store.scan("index", lower, upper)}


@pytest.mark.usefixtures("tiny_runs")
def test_reads_indexing_and_trims_run_beside_appends(rocks: RocksEngine) -> None:
    """Versions never go back, reads never see a hole, whatever runs beside them."""
    r = copy_of(rocks)
    batches = 400
    done, errors = threading.Event(), list[BaseException]()

    def beside(work: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                while not done.is_set():
                    work()
            except BaseException as e:
                errors.append(e)
                raise

        return threading.Thread(target=run)

    counted = [0]

    def count() -> None:
        at_least = rocks.end(r).end
        counted.append(rocks.count_key(r, b"key", ALL))
        assert counted[-1] >= max(counted[-2], at_least)

    def read() -> None:
        start = rocks.replicas()[0].base.end
        snapshot = rocks.snapshot(r, ALL)
        stored = list(snapshot.batches(snapshot.anchor.base.end))
        assert snapshot.anchor.base.end >= start
        assert sum(b.count for b in stored) == snapshot.end.end - snapshot.anchor.base.end
        assert snapshot.anchor.key_counts.get(b"key", 0) == snapshot.anchor.base.end
        snapshot.close()

    threads = [
        beside(count),
        beside(read),
        beside(lambda: rocks.index_step(50)),
        beside(lambda: rocks.trim(r, rocks.end(r).end - 200)),
    ]
    for thread in threads:
        thread.start()
    at = Position()
    for _ in range(batches):
        batch = batch_at(at, [b"key"] * 5)
        rocks.write([ReplicaWrite(r, [batch])], Durability.OS)
        at = Position(batch.end, batch.chain_after)
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert rocks.count_key(r, b"key", ALL) == 5 * batches
    assert len(counted) > 1


def unreadable(engine: RocksEngine, replica_id: int, count: int) -> None:
    """A batch whose envelope is whole and whose payload is no Arrow batch."""
    end = engine.end(replica_id)
    garbage = build(
        base_offset=end.end, epoch=1, chain_before=end.chain, count=count, append_time_us=1,
        time_min_us=1, time_max_us=1, flags=0, spans=[], payload=b"no batch",
    )  # fmt: skip
    engine.write([ReplicaWrite(replica_id, [garbage])], Durability.OS)


def test_what_cannot_be_read_is_shown_to_every_lookup_from_the_disks_index_too(
    tmp_path: Path,
) -> None:
    """Runs hold no hashes of it; its place is written with them, and goes with a cut."""
    with closing(RocksEngine.open(tmp_path / "db")) as engine:
        me = copy_of(engine)
        append(engine, me, [b"a", b"b"])
        unreadable(engine, me, 3)
        append(engine, me, [b"a"])
        index_all(engine)
        for index in [r.index for r in engine._replicas.values() if r.index is not None]:
            index.write_run()
            assert index.memory_records == 0
    with closing(RocksEngine.open(tmp_path / "db")) as engine:
        assert [b.base_offset for b in engine.read_key(me, b"a", 0, ALL)] == [0, 2, 5]
        assert [b.base_offset for b in engine.read_key(me, b"nobody", 0, ALL)] == [2]
        assert [b.base_offset for b in engine.read_key(me, b"a", 5, ALL)] == [5]
        assert (engine.count_key(me, b"a", 6), engine.count_key(me, b"b", 6)) == (2, 1)
        engine.truncate(me, 2)
        append(engine, me, [b"c", b"a", b"c", b"c"])
        assert [b.base_offset for b in engine.read_key(me, b"a", 0, ALL)] == [0, 2]
        assert [b.base_offset for b in engine.read_key(me, b"b", 0, ALL)] == [0]
