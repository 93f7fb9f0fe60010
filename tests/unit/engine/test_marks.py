"""The second place that knows where each log ended."""

import shutil
from pathlib import Path

import pytest

from logstore.base.errors import CorruptStorageError, DivergedError, StorageError
from logstore.base.types import Durability, Position
from logstore.engine.port import ReplicaMeta, ReplicaWrite, Retired
from logstore.engine.rocks import RocksEngine, aside, marks
from logstore.engine.rocks.store import Batch, Store
from tests.support.engine import ALL, append, batch_at, batches_of, copy_of, fill, wal_of

MARK = Retired("test", 1, 1_000, 2_000)


def killed(path: Path, engine: RocksEngine) -> Path:
    """What a kill -9 now would leave."""
    copied = path.with_name(f"killed{len(list(path.parent.iterdir()))}")
    shutil.copytree(path, copied)
    return copied


def end_of(path: Path, replica_id: int = 1) -> int | None:
    mark = marks.read(path).get(replica_id)
    return mark.end if mark else None


def test_a_mark_follows_all_that_moves_the_end(tmp_path: Path) -> None:
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    assert marks.read(path) == {}
    for r in (1, 2):
        copy_of(engine, r)
        assert end_of(path, r) == 0
    fill(engine, 1, batches=10, per_batch=4)
    append(engine, 2, [b"a"], durability=Durability.FSYNC)
    assert (end_of(path, 1), end_of(path, 2)) == (40, 1)
    engine.truncate(1, 24)
    assert end_of(path) == 24
    engine.trim(1, 8)
    mark = marks.read(path)[1]
    assert mark.copy is not None
    assert (mark.end, mark.copy.base, mark.copy.shard) == (24, engine.replicas()[0].base, "log/1")
    engine.retire_replica(1, MARK)
    assert end_of(path) == 24
    engine.restore_replica(1)
    append(engine, 1, [b"a"])
    assert end_of(path) == 25
    engine.retire_replica(1, MARK)
    engine.drop_replica(1)
    engine.drop_replica(2)
    assert marks.read(path) == {}
    engine.close()


def test_many_copies_make_the_file_grow(tmp_path: Path) -> None:
    engine = RocksEngine.open(tmp_path / "db")
    for r in range(1, 301):
        copy_of(engine, r, key_index=False)
    for r in (1, 128, 129, 300):
        append(engine, r, [b"a"])
    engine.drop_replica(5)
    copy_of(engine, 301)
    found = marks.read(tmp_path / "db")
    assert set(found) == {*range(1, 302)} - {5}
    assert {r for r, m in found.items() if m.end == 1} == {1, 128, 129, 300}
    engine.close()
    engine = RocksEngine.open(tmp_path / "db")
    assert len(engine.replicas()) == 300
    assert not any(m.tail_lost for m in engine.replicas())
    engine.close()


def test_a_torn_or_damaged_slot_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    copy_of(engine)
    fill(engine, 1, batches=5, per_batch=4)
    engine.close()
    original = (path / marks.ENDS).read_bytes()
    for at in range(marks.SLOT_BYTES):
        damaged = bytearray(original)
        damaged[at] ^= 0x04
        (path / marks.ENDS).write_bytes(damaged)
        found = marks.read(path).get(1)
        assert found is None or found.end == 20
        assert found is None or found.copy is None or found.copy.shard == "log/1"
    for size in (0, 1, 511, 513):
        (path / marks.ENDS).write_bytes(original[:size])
        engine = RocksEngine.open(path)
        assert not engine.replicas()[0].tail_lost
        append(engine, 1, [b"a"])
        engine.truncate(1, 20)
        engine.close()
        assert end_of(path) == 20


@pytest.mark.parametrize("how", ["flipped", "torn"])
def test_the_last_record_of_the_wal_is_missed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    copy_of(engine)
    fill(engine, 1, batches=119, per_batch=50)
    append(engine, 1, [b"last-%d" % n for n in range(50)])
    whole = batches_of(engine, 1)
    path = killed(path, engine)
    engine.close()
    wal = wal_of(path)
    data = bytearray(wal.read_bytes())
    at = data.rindex(b"last-49")
    data[at] ^= 0x01
    wal.write_bytes(data if how == "flipped" else data[:at])
    kept = wal.read_bytes()
    engine = RocksEngine.open(path)
    (meta,) = engine.replicas()
    assert (meta.tail_lost, meta.known_end, meta.damage) == (True, 6_000, "")
    assert engine.end(1).end == 5_950
    assert batches_of(engine, 1) == whole[:-1]
    assert engine.verify_chain(1, Position(), ALL).end == 5_950
    assert (path / "damaged-1" / "wal" / wal.name).read_bytes() == kept
    append(engine, 1, [b"on"])
    assert engine.count_key(1, b"last-1", ALL) == 0
    engine.close()
    engine = RocksEngine.open(path)  # it stays until the owner knows
    (meta,) = engine.replicas()
    assert (meta.tail_lost, meta.known_end, engine.end(1).end) == (True, 6_000, 5_951)
    engine.set_meta(ReplicaMeta(1, "log/1", known_end=6_000))
    engine.close()
    engine = RocksEngine.open(path)
    assert engine.replicas() == [ReplicaMeta(1, "log/1")]
    assert [p.name for p in path.glob("damaged-*")] == ["damaged-1"]
    engine.close()


def test_a_database_that_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    copy_of(engine)
    fill(engine, 1, batches=10, per_batch=5)
    engine.close()
    away = tmp_path / "away"
    away.mkdir()
    for entry in list(path.iterdir()):
        if aside.is_database(entry.name):
            entry.rename(away / entry.name)
    for _ in range(2):
        with pytest.raises(CorruptStorageError, match=r"log/1 replica 1 of 50 records"):
            RocksEngine.open(path)
    for entry in list(away.iterdir()):
        if (path / entry.name).exists():
            continue
        entry.rename(path / entry.name)
    engine = RocksEngine.open(path)
    assert engine.end(1).end == 50
    engine.close()


def test_a_directory_from_before_the_marks_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    copy_of(engine)
    fill(engine, 1, batches=10, per_batch=5)
    engine.close()
    (path / marks.ENDS).unlink()
    engine = RocksEngine.open(path)
    assert engine.end(1).end == 50
    assert not engine.replicas()[0].tail_lost
    assert end_of(path) == 50
    engine.close()


def test_a_wal_that_is_gone_takes_no_copy_with_it_unsaid(tmp_path: Path) -> None:
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    copy_of(engine)
    fill(engine, 1, batches=10, per_batch=5)
    path = killed(path, engine)
    engine.close()
    shutil.rmtree(path / "wal")
    engine = RocksEngine.open(path)
    (meta,) = engine.replicas()
    assert meta.shard == "log/1"
    assert meta.damage
    with pytest.raises(CorruptStorageError, match=r"offsets 0\.\.49 are missing"):
        engine.read(1, 0, ALL, 1)
    with pytest.raises(CorruptStorageError, match=r"offsets 49\.\.49 are missing"):
        engine.read(1, 49, ALL, 1)
    engine.close()


def test_damaged_files_are_kept_in_bounded_number(tmp_path: Path) -> None:
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    copy_of(engine)
    fill(engine, 1, batches=10, per_batch=5)
    engine.close()
    for n in range(1, 5):
        (path / "DAMAGED").write_text(f"found by a scrub, {n}")
        RocksEngine.open(path).close()
        kept = sorted(p.name for p in path.glob("damaged-*"))
        assert kept == [f"damaged-{i}" for i in range(max(1, n - aside.KEPT_MAX + 1), n + 1)]
        assert (path / f"damaged-{n}" / "WHY").read_text() == f"found by a scrub, {n}"
        assert list((path / f"damaged-{n}").glob("*.sst"))
    assert not (path / "before").exists()


def test_a_mark_goes_before_what_shortens_a_log_and_after_what_lengthens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a kill -9 at any moment leaves no log below its mark."""
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    copy_of(engine)
    fill(engine, 1, batches=5, per_batch=4)
    seen: list[int | None] = []
    original = Store.write

    def write(store: Store, batch: Batch) -> None:
        seen.append(end_of(path))
        original(store, batch)

    monkeypatch.setattr(Store, "write", write)
    append(engine, 1, [b"a"])
    append(engine, 1, [b"b"], durability=Durability.FSYNC)
    engine.truncate(1, 12)
    engine.drop_replica(1)
    copy_of(engine, 2)
    assert seen == [20, 21, 12, None, None]
    engine.close()


def test_a_failed_write_moves_no_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    copy_of(engine)
    first = append(engine, 1, [b"a"])
    bad = batch_at(Position(5, first.chain_after), [b"b"])
    with pytest.raises(DivergedError, match="does not follow"):
        engine.write([ReplicaWrite(1, [bad])], Durability.OS)
    assert end_of(path) == 1

    def fail(_store: Store, _batch: Batch) -> None:
        raise StorageError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", fail)
        with pytest.raises(StorageError):
            append(engine, 1, [b"b"])
        with pytest.raises(StorageError):
            engine.truncate(1, 0)
        with pytest.raises(StorageError):
            engine.drop_replica(1)
    assert end_of(path) == 1
    append(engine, 1, [b"b"])
    assert end_of(path) == 2
    engine.close()
