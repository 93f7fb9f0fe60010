"""Any file of a stopped directory is damaged, cut or gone: what is missing is told, never left out.

The table is every file x every way to damage it, over directories whose records lie in tables, in
blob files, or in the WAL of a killed process.
"""

import contextlib
import gc
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from logstore.base.errors import CorruptStorageError, LogstoreError, StorageError
from logstore.base.types import Durability, Position
from logstore.engine.batch import StoredBatch
from logstore.engine.port import CopyFacts, ReplicaMeta, ReplicaWrite
from logstore.engine.rocks import RocksEngine
from logstore.engine.rocks.store import FAMILIES
from tests.support.engine import ALL, batch_at, index_all

pytestmark = pytest.mark.mistakes

RECORDS = 6_000
WHOLE, REFUSED = "whole", "refused"
BUFFER = 1024 * 1024


@dataclass(frozen=True)
class Kind:
    per_batch: int
    compression: str
    durability: Durability
    killed: bool


KINDS = {
    "tables": Kind(20, "lz4", Durability.OS, killed=False),
    "blobs": Kind(200, "none", Durability.FSYNC, killed=False),
    "wal": Kind(50, "zstd", Durability.OS, killed=True),
}


@dataclass(frozen=True)
class Made:
    path: Path
    batches: list[StoredBatch]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    done: dict[str, Made] = {}

    def make(name: str) -> Made:
        if name not in done:
            done[name] = _make(KINDS[name], tmp_path_factory.mktemp("made"))
        return done[name]

    return make


def _make(kind: Kind, folder: Path) -> Made:
    """6,000 records in several files of each sort; the test's name says how the last ones lie."""
    path = folder / "db"
    engine = RocksEngine.open(path, write_buffer_bytes=BUFFER)
    engine.create_replica(ReplicaMeta(1, "log/1"))
    engine.set_facts(1, CopyFacts("c", "g", 1, b"shard", b"log"))
    batches: list[StoredBatch] = []
    at = Position()
    while at.end < RECORDS:
        keys = [b"key-%d" % (at.end + i) for i in range(kind.per_batch)]
        batch = batch_at(at, keys, compression=kind.compression, time_us=1_000 + at.end)
        engine.write([ReplicaWrite(1, [batch], at.end)], kind.durability)
        batches.append(batch)
        at = Position(batch.end, batch.chain_after)
        if at.end in (2_000, 4_000):
            index_all(engine)
            for family in FAMILIES:
                engine._store.flush(family)
    if kind.killed:
        shutil.copytree(path, folder / "killed")
    engine.close()
    return Made(folder / "killed" if kind.killed else path, batches)


def flip(share: float) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[min(int(len(data) * share), len(data) - 1)] ^= 0x10
        file.write_bytes(data)

    return damage


def cut(share: float) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * share)])

    return damage


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


WAYS: dict[str, Callable[[Path], None]] = {
    "first byte": flip(0.0),
    "a bit in the middle": flip(0.5),
    "last byte": flip(1.0),
    "cut in half": cut(0.5),
    "zeroed": zero,
    "gone": Path.unlink,
}


def files_of(path: Path, way: str) -> list[str]:
    """The files to damage; those that hold no records only once, by taking them away."""
    files = [f.relative_to(path) for f in path.rglob("*") if f.is_file() and f.stat().st_size]
    plain = ("LOG", "LOCK", "IDENTITY", "OPTIONS", "IN_USE", "rocksdict")
    return sorted(str(f) for f in files if way == "gone" or not f.name.startswith(plain))


def check(path: Path, batches: list[StoredBatch]) -> str:
    """Open, compare with what was acked, and say how the rest is reported; fails if it is not."""
    try:
        engine = RocksEngine.open(path, write_buffer_bytes=BUFFER)
    except StorageError as e:
        refusal = e.message
    else:
        try:
            return _check(engine, batches)
        finally:
            gc.collect()  # frames of errors hold cursors, and those the database open
            engine.close()
    assert str(path) in refusal
    assert "nothing in it was deleted" in refusal
    return REFUSED


def _check(engine: RocksEngine, batches: list[StoredBatch]) -> str:
    (meta,) = engine.replicas()
    whole, missing = [], []
    for batch in batches:
        try:
            found = engine.read(1, batch.base_offset, batch.end, 1)
        except CorruptStorageError:
            missing.append(batch)
            continue
        if found:
            assert found == [batch]
            whole.append(batch)
        else:  # it is missing unexpectedly: that is reported
            assert meta.tail_lost
            assert batch.base_offset >= engine.end(1).end
            assert meta.known_end == RECORDS
            missing.append(batch)
    meta = engine.replicas()[0]
    if not missing:
        assert engine.end(1).end == RECORDS
        return WHOLE
    _check_told(engine, meta, whole, missing)
    return f"{sum(b.count for b in missing)} missing"


def _check_told(
    engine: RocksEngine, meta: ReplicaMeta, whole: list[StoredBatch], missing: list[StoredBatch]
) -> None:
    """No way to read gives less than there was without a word."""
    first = missing[0].base_offset
    if meta.tail_lost and not meta.damage and first == engine.end(1).end:
        assert meta.known_end == RECORDS
        assert engine.verify_chain(1, Position(), ALL).end == first
        for batch in whole[-3:]:
            assert engine.read_key(1, b"key-%d" % batch.base_offset, 0, ALL) == [batch]
        return
    assert engine.end(1).end == RECORDS
    reads: list[Callable[[], object]] = [
        lambda: engine.verify_chain(1, Position(), ALL),
        lambda: engine.count_key(1, b"key-%d" % first, ALL),
        lambda: read_key_on(engine, b"key-%d" % first),
        lambda: engine.offset_at_time(1, 1_000 + first),
        lambda: list(engine.snapshot(1, ALL).batches(0)),
    ]
    assert [n for n, read in enumerate(reads) if not refuses(read)] == []
    with contextlib.suppress(CorruptStorageError):
        at = engine.position_at(1, missing[0].end)
        assert at is None or at.end in (b.base_offset for b in whole)


def refuses(read: Callable[[], object]) -> bool:
    try:
        read()
    except CorruptStorageError:
        return True
    return False


def read_key_on(engine: RocksEngine, key: bytes) -> list[StoredBatch]:
    found: list[StoredBatch] = []
    while page := engine.read_key(1, key, found[-1].end if found else 0, ALL):
        found += page
    return found


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("way", list(WAYS))
def test_what_is_missing_is_told(
    made: Callable[[str], Made], tmp_path: Path, kind: str, way: str
) -> None:
    original = made(kind)
    for n, name in enumerate(files_of(original.path, way)):
        path = tmp_path / str(n)
        shutil.copytree(original.path, path)
        WAYS[way](path / name)
        try:
            outcome = check(path, original.batches)
            if outcome not in (WHOLE, REFUSED):
                answer = check(path, original.batches)  # rebuilt, and reported again
                assert answer.endswith("missing")
                assert list(path.glob("damaged-*"))
        except (AssertionError, LogstoreError) as e:
            raise AssertionError(f"{kind}, {name}, {way}: {e}") from e
        shutil.rmtree(path)
