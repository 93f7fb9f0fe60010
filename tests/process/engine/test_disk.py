"""The RocksDB engine and its disk: damage, a full disk, locks, restarts, space."""

import errno
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from logstore.base.errors import (
    CorruptStorageError,
    DirectoryInUseError,
    StorageError,
    StorageFullError,
    UnknownShardError,
)
from logstore.base.types import Durability, Position, ProducerSpan
from logstore.engine.port import CopyFacts, ReplicaMeta, ReplicaWrite, Retired
from logstore.engine.rocks import RocksEngine, aside, reader, salvage
from logstore.engine.rocks import state as rocks_state
from logstore.engine.rocks.store import Store, lock_directory
from tests.support.engine import ALL, append, batch_at, copy_of, fill, flip, index_all, wal_of

BUFFER = 1024 * 1024
ROOT = Path(__file__).parents[3]

WRITE_AND_DIE = """
import os, sys
from logstore.engine.rocks import RocksEngine
from tests.support.engine import copy_of, fill
engine = RocksEngine.open(sys.argv[1])
copy_of(engine)
fill(engine, 1, batches=200, per_batch=10)
os.write(1, str(engine.end(1).end).encode())
os._exit(9)
"""


def write_and_die(path: Path) -> int:
    """2,000 records in a WAL and nowhere else: the process neither flushed nor closed."""
    command = [sys.executable, "-c", WRITE_AND_DIE, str(path)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 9
    return int(done.stdout)


def test_a_flipped_byte_in_the_middle_of_the_wal_is_never_skipped_silently(tmp_path: Path) -> None:
    path = tmp_path / "db"
    end = write_and_die(path)
    flip(wal_of(path), 0.5)
    engine = RocksEngine.open(path)
    (meta,) = engine.replicas()
    assert meta.tail_lost
    if not meta.damage:
        assert engine.verify_chain(1, Position(), ALL) == engine.end(1)
        assert engine.end(1).end < end
    engine.close()
    engine = RocksEngine.open(path)  # the mark stays until the copy is dropped
    assert engine.replicas()[0].tail_lost
    engine.close()


def damaged_table(path: Path) -> None:
    """A directory with copies 1 and 2 in one table, copy 1's part of it flipped."""
    engine = RocksEngine.open(path)
    rng = random.Random(3)
    for r in (1, 2):
        copy_of(engine, r)
    for _ in range(300):
        for r in (1, 2):
            append(engine, r, [b"k"] * 10, value=rng.randbytes(20))
    engine.verify_chain(1, Position(), ALL)  # flushes
    engine.close()
    flip(max(path.glob("*.sst"), key=lambda p: p.stat().st_size), 0.25)


def refusal(engine: RocksEngine, replica_id: int) -> str:
    """What a deep check says; its error's frames, which hold a cursor, are gone at return."""
    try:
        engine.verify_chain(replica_id, Position(), ALL)
    except CorruptStorageError as e:
        return e.message
    return ""


def test_damage_in_one_copy_leaves_the_others_alone(tmp_path: Path) -> None:
    path = tmp_path / "db"
    damaged_table(path)
    engine = RocksEngine.open(path)
    assert "checksum" in refusal(engine, 1)
    assert (path / "DAMAGED").exists()
    engine._reclaimer.reclaim(b"", b"\xff" * 9)  # a compaction over it would stop every write
    engine._reclaimer.drain()
    append(engine, 2, [b"on"])
    engine.drop_replica(1)
    assert engine.verify_chain(2, Position(), ALL) == engine.end(2)
    engine.close()
    engine = RocksEngine.open(path)  # rebuilt from what is whole
    assert not (path / "DAMAGED").exists()
    assert not (path / "rebuilt").exists()
    assert [m.replica_id for m in engine.replicas()] == [2]
    assert engine.verify_chain(2, Position(), ALL) == engine.end(2)
    assert engine.end(2).end == 3_001
    assert engine.count_key(2, b"on", ALL) == 1
    engine.close()


def test_a_rebuild_keeps_what_is_whole_around_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "db"
    damaged_table(path)
    (path / "DAMAGED").write_text("found by a scrub")
    engine = RocksEngine.open(path)
    one, two = engine.replicas()
    assert one.damage
    assert not two.damage
    assert not one.tail_lost
    assert engine.end(1).end == engine.end(2).end == 3_000
    assert engine.read(1, 0, 10, 1)[0].base_offset == 0
    assert engine.read(1, 2_990, 3_000, 1)[0].end == 3_000
    with pytest.raises(CorruptStorageError, match="offset"):
        read_on(engine, 0, ALL)
    assert not (path / "DAMAGED").exists()  # the files are whole, the copy is not
    engine.close()


def rebuild(path: Path) -> None:
    lock = lock_directory(path)
    salvage._rebuild(path, (BUFFER, BUFFER), lock)
    lock.release()


@pytest.mark.parametrize("after", ["rebuilt", "deleted", "moved some"])
def test_a_rebuild_that_was_killed_goes_on(tmp_path: Path, after: str) -> None:
    path = tmp_path / "db"
    damaged_table(path)
    (path / "DAMAGED").write_text("found by a scrub")
    rebuild(path)
    if after != "rebuilt":
        for entry in path.iterdir():
            if aside.is_database(entry.name) and entry.is_file():
                entry.unlink()
                if entry.suffix == ".sst":
                    break
    if after == "moved some":
        for entry in path.iterdir():
            if aside.is_database(entry.name):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        salvage._mark(path, salvage.MOVING, "")
        moved = next((path / "rebuilt").glob("MANIFEST*"))
        moved.replace(path / moved.name)
    engine = RocksEngine.open(path)
    assert engine.verify_chain(2, Position(), ALL).end == 3_000
    assert engine.replicas()[0].damage
    engine.close()


@pytest.mark.parametrize("cut", [1, 100, 5_000])
def test_a_torn_tail_of_the_wal_loses_only_what_was_torn(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "db"
    end = write_and_die(path)
    wal = wal_of(path)
    size = wal.stat().st_size
    os.truncate(wal, size - cut)
    engine = RocksEngine.open(path)
    kept = engine.end(1)
    assert end - 10 * (cut // 400 + 1) <= kept.end < end  # a batch of 10 is over 400 bytes
    assert engine.verify_chain(1, Position(), ALL) == kept
    assert sum(e.count for p in engine.producers(1).values() for e in p) <= kept.end
    append(engine, 1, [b"on"])
    engine.close()


def test_a_damaged_stored_batch_is_named(tmp_path: Path) -> None:
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    copy_of(engine)
    rng = random.Random(3)
    for _ in range(20):
        append(engine, 1, [b"k"] * 10, value=rng.randbytes(500))
    engine.verify_chain(1, Position(), ALL)  # flushes
    engine.close()
    blob = max(path.glob("*.blob"), key=lambda p: p.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 0x10
    blob.write_bytes(data)
    with pytest.raises(CorruptStorageError, match=str(path)):
        read_all(path)


def read_on(engine: RocksEngine, start: int, stop: int) -> None:
    """Read copy 1 as a reader does: a call ends before damage, the next one meets it."""
    at, stop = start, min(stop, engine.end(1).end)
    while at < stop:
        at = engine.read(1, at, stop, ALL)[-1].end


def read_all(path: Path) -> None:
    engine = RocksEngine.open(path)
    try:
        read_on(engine, 0, ALL)
    finally:
        engine.close()


def test_a_value_that_is_not_what_was_written_is_named(tmp_path: Path) -> None:
    """Past RocksDB's own checksums: our envelope's checksum and the chain find it."""
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    copy_of(engine)
    fill(engine, 1, batches=5, per_batch=10)
    engine.close()
    engine = RocksEngine.open(path)  # nothing is in memory
    store: Store = engine._store
    (key, value), other = [*store.scan("data", b"", b"\xff")][2], b"\x00" * 40
    for altered in (value[:-1] + bytes([value[-1] ^ 1]), value[:20], other):
        batch = store.batch()
        batch.put("data", key, altered)
        store.write(batch)
        for read in (
            lambda: read_on(engine, 15, 25),
            lambda: read_on(engine, 0, ALL),
            lambda: engine.verify_chain(1, Position(), ALL),
        ):
            with pytest.raises(CorruptStorageError, match=r"'log/1' replica 1: .*offset 20"):
                read()
    batch = store.batch()
    batch.delete("data", key)
    store.write(batch)
    with pytest.raises(CorruptStorageError, match=r"offsets 20\.\.29 are missing"):
        read_on(engine, 0, ALL)
    engine.close()


def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    with pytest.raises(DirectoryInUseError, match=str(path)):
        RocksEngine.open(path)
    engine.close()
    write_and_die(path)  # killed: the lock is free
    RocksEngine.open(path).close()
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    with pytest.raises(StorageError, match=str(blocked)):
        RocksEngine.open(blocked)


def test_after_a_failed_fsync_nothing_is_acked_until_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = RocksEngine.open(tmp_path / "db")
    copy_of(engine)
    acked = append(engine, 1, [b"a"], durability=Durability.FSYNC)

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(StorageError, match="Input/output error"):
            append(engine, 1, [b"b"], durability=Durability.FSYNC)
    assert engine.end(1) == Position(1, acked.chain_after)
    assert engine.read(1, 0, ALL, ALL) == [acked]
    for durability in Durability:
        with pytest.raises(StorageError, match="restart"):
            append(engine, 1, [b"b"], durability=durability)
    engine.close()
    engine = RocksEngine.open(tmp_path / "db")
    assert engine.position_at(1, 1) == Position(1, acked.chain_after)
    append(engine, 1, [b"c"], durability=Durability.FSYNC)
    engine.close()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_refuses_writes_serves_reads_and_recovers(tiny_disk: Path) -> None:
    engine = RocksEngine.open(tiny_disk / "db", write_buffer_bytes=BUFFER)
    copy_of(engine)
    rng = random.Random(1)
    acked = Position()
    for n in range(1, 2_000):
        batch = batch_at(
            acked, [b"k"] * 10, spans=[ProducerSpan(7, n, 10)], value=rng.randbytes(9_000)
        )
        try:
            engine.write([ReplicaWrite(1, [batch], acked.end)], Durability.OS)
        except StorageFullError:
            break
        acked = Position(batch.end, batch.chain_after)
    assert acked.end > 100
    for durability in Durability:
        with pytest.raises(StorageFullError, match=str(tiny_disk)):
            engine.write([ReplicaWrite(1, [batch])], durability)
    assert engine.end(1) == acked
    assert engine.producers(1)[7][-1].sequence == acked.end // 10
    assert engine.read(1, acked.end - 5, ALL, 1)[-1].chain_after == acked.chain
    assert len(engine.read_key(1, b"k", 0, 50)) == 5
    subprocess.run(["mount", "-o", "remount,size=64m", tiny_disk], check=True)
    retry = threading.Event()
    while engine.end(1) == acked:  # RocksDB looks for space every five seconds
        try:
            engine.write([ReplicaWrite(1, [batch])], Durability.FSYNC)
        except StorageFullError:
            retry.wait(0.1)
    assert engine.end(1) == Position(batch.end, batch.chain_after)
    assert engine.verify_chain(1, Position(), ALL) == engine.end(1)
    engine.close()
    engine = RocksEngine.open(tiny_disk / "db")
    assert engine.verify_chain(1, Position(), ALL).end == batch.end
    engine.close()


@pytest.mark.parametrize("checkpoint_bytes", [20_000, 1 << 30])
def test_a_restart_continues_from_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_bytes: int
) -> None:
    monkeypatch.setattr(rocks_state, "CHECKPOINT_BYTES", checkpoint_bytes)
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    for r in (1, 2):
        copy_of(engine, r, key_index=r == 1)
        fill(engine, r, batches=300, per_batch=3, seed=r)
    engine.trim(1, 90)
    engine.truncate(2, 600)
    engine.index_step(500)
    before = facts(engine)
    os.sync()
    copied = tmp_path / "crashed"  # what a crash here would leave behind
    subprocess.run(["cp", "-r", path, copied], check=True)
    engine.close()
    for directory in (path, copied):
        engine = RocksEngine.open(directory)
        assert facts(engine) == before
        assert engine.offset_at_time(1, 1_500) == 150
        assert engine.offset_at_time(1, 9_999) == 900
        append(engine, 1, [b"key-1"])
        assert engine.count_key(1, b"key-1", ALL) == before[1][4] + 1
        engine.close()


@pytest.mark.parametrize("how", ["closed", "killed", "rebuilt"])
def test_retired_copies_and_facts_survive(tmp_path: Path, how: str) -> None:
    path = tmp_path / "db"
    engine = RocksEngine.open(path)
    owner = [CopyFacts("c", "g", r, b"shard", b"log") for r in range(3)]
    mark = Retired("log deleted", 9, 1_000, 2_000)
    for r in (1, 2):
        copy_of(engine, r)
        fill(engine, r, batches=100, per_batch=3, seed=r)
        engine.set_facts(r, owner[r])
    engine.trim(2, 30)
    before = facts(engine)
    engine.retire_replica(2, mark)
    retired = engine.retired()
    copied = tmp_path / "killed"
    shutil.copytree(path, copied)
    engine.close()
    if how == "killed":
        path = copied
    elif how == "rebuilt":
        (path / "DAMAGED").write_text("found by a scrub")
    (path / "identity.json").write_text("who")
    (path / "incarnation.json").write_text("who it was")
    (path / "notes").mkdir()
    engine = RocksEngine.open(path)
    assert {p.name for p in path.glob("*.json")} >= {"identity.json", "incarnation.json"}
    assert (path / "notes").is_dir()
    assert [m.replica_id for m in engine.replicas()] == [1]
    assert engine.retired() == retired
    assert [engine.facts(r) for r in (1, 2)] == owner[1:]
    assert 2 not in engine._replicas  # it costs no memory
    engine.restore_replica(2)
    assert facts(engine) == before
    engine.retire_replica(1, mark)
    engine.drop_replica(1)
    engine.close()
    engine = RocksEngine.open(path)
    assert [m.replica_id for m in engine.replicas()] == [2]
    assert engine.retired() == []
    engine.close()


def facts(engine: RocksEngine) -> dict[int, Any]:
    return {
        m.replica_id: (
            m,
            engine.end(m.replica_id),
            engine.producers(m.replica_id),
            engine.bytes_stored(m.replica_id),
            engine.count_key(m.replica_id, b"key-1", ALL),
            engine.read_key(m.replica_id, b"key-2", 0, ALL),
            engine.snapshot(m.replica_id, ALL).anchor,
        )
        for m in engine.replicas()
    }


def test_a_dropped_copy_gives_its_space_back(tmp_path: Path) -> None:
    path = tmp_path / "db"
    engine = RocksEngine.open(path, write_buffer_bytes=BUFFER)
    rng = random.Random(1)
    for r in (1, 2):
        copy_of(engine, r)
    for _ in range(100):  # interleaved, as in a live instance
        for r in (1, 2):
            append(engine, r, [b"k"] * 20, value=rng.randbytes(5_000))
    index_all(engine)
    kept = engine.bytes_stored(2)
    engine.drop_replica(1)
    engine._reclaimer.drain()
    on_disk = sum(f.stat().st_size for f in path.glob("*.[sb][sl]*"))
    assert on_disk < 1.5 * kept
    assert engine.verify_chain(2, Position(), ALL) == engine.end(2)
    engine.create_replica(ReplicaMeta(1, "log/1"))
    assert engine.end(1) == Position()
    engine.close()
    engine = RocksEngine.open(path)
    assert engine.end(1) == Position()
    assert engine.verify_chain(2, Position(), ALL) == engine.end(2)
    engine.close()


Read = Callable[[RocksEngine], object]


@pytest.mark.parametrize("key_index", [True, False], ids=["key index", "no key index"])
@pytest.mark.parametrize(
    "read",
    [
        lambda engine: engine.read(1, 0, ALL, 1 << 20),
        lambda engine: engine.read_key(1, b"key-1", 0, ALL),
        lambda engine: engine.count_key(1, b"key-1", ALL),
        lambda engine: engine.offset_at_time(1, 1_500),
    ],
    ids=["read", "read_key", "count_key", "offset_at_time"],
)
def test_a_read_of_a_copy_that_is_dropped_meanwhile_finds_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Read, key_index: bool
) -> None:
    """Not a part of it, and no damage: that would stop the compactions of all copies."""
    engine = RocksEngine.open(tmp_path / "db")
    copy_of(engine, 1, key_index=key_index)
    fill(engine, 1, batches=300, per_batch=3)
    index_all(engine)
    engine._recent.forget(1)
    dropped: list[str] = []

    def dropping(name: str) -> Callable[..., object]:
        original = getattr(reader, name)

        def function(*arguments: object, **named: object) -> object:
            if not dropped:
                dropper = threading.Thread(target=engine.drop_replica, args=(1,))
                dropper.start()
                dropper.join()
                dropped.append(name)
            return original(*arguments, **named)

        return function

    for name in ("batches", "batches_holding", "offset_at_time"):
        monkeypatch.setattr(reader, name, dropping(name))
    with pytest.raises(UnknownShardError, match="replica_id is 1"):
        read(engine)
    assert dropped
    assert not engine._store.contained
    engine.close()
