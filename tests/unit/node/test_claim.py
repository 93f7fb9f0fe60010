"""Who may run an instance, on which metadata (P11): each start of note 0008, over a real
directory."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from logstore.base.env import Env
from logstore.base.errors import (
    AlreadyRunningError,
    FencedError,
    LogstoreError,
    UnavailableError,
    WrongClusterError,
)
from logstore.engine.port import CopyFacts
from logstore.meta.generations import open_generation
from logstore.meta.memory import MemoryMetadataStore, Tables
from logstore.meta.port import Compare, Put
from logstore.meta.records import (
    InstanceRecord,
    decode_instance,
    encode,
    instance_key,
    process_key,
)
from logstore.node.instance import claim as claims
from logstore.node.instance.claim import Claim, ClaimedStore, check_directory
from logstore.node.instance.identity import BEFORE_FILE, LOCK, Identity, IdentityFile, accept

ENV = Env()


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "TTL_S", 0.4)
    monkeypatch.setattr(claims, "POLL_S", 0.01)


@contextlib.asynccontextmanager
async def metadata() -> AsyncIterator[MemoryMetadataStore]:
    store = MemoryMetadataStore()
    await open_generation(store, ENV, "tests")
    try:
        yield store
    finally:
        await store.close()


def twin_of(tables: Tables) -> Tables:
    """A copy, as an operator makes one of a stopped store."""
    return Tables(list(tables.items.values()), tables.revision)


class Process:
    """One process of instance `i1` over a directory."""

    def __init__(self, store: MemoryMetadataStore, data: Path, **given: object) -> None:
        data.mkdir(parents=True, exist_ok=True)
        (data / LOCK).touch()
        self.data = data
        self.marked = 0
        self.acted_on = 0
        options: dict[str, object] = {"new_disk": False, "accepts": None, **given}
        self.claim = Claim(
            store, IdentityFile(data), ENV, "i1", acted_on=lambda: self.acted_on,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip

    async def start(self, *copies: CopyFacts, empty: bool = False) -> "Process":
        await self.claim.make(self._record, copies, self._mark, empty=empty)
        return self

    def _record(self, identity: Identity) -> InstanceRecord:
        return InstanceRecord("i1", "h:1", identity.incarnation, process=identity.drawn)

    async def _mark(self) -> None:
        self.marked += 1

    @property
    def incarnation(self) -> int:
        return self.claim.identity.incarnation


def files(folder: Path) -> list[tuple[str, bytes]]:
    return sorted((path.name, path.read_bytes()) for path in folder.iterdir())


def copy_of(store: MemoryMetadataStore) -> MemoryMetadataStore:
    tables = store._tables
    kept = [i for i in tables.items.values() if not i.key.startswith("/processes/")]
    return MemoryMetadataStore(Tables(kept, tables.revision))


async def test_a_killed_process_is_followed_at_once_by_its_own_directory(tmp_path: Path) -> None:
    async with metadata() as store:
        first = await Process(store, tmp_path).start()
        began_s = ENV.clock.monotonic_s()
        second = await Process(store, tmp_path).start()
        assert ENV.clock.monotonic_s() - began_s < claims.TTL_S
        assert second.incarnation == first.incarnation
        assert second.marked == 0


@pytest.mark.parametrize("when", ["registering", "registered"])
async def test_a_kill_in_the_middle_of_a_start_makes_no_folder_old(
    tmp_path: Path, when: str
) -> None:
    """The number is on the disk before it is registered, and either one is known."""
    async with metadata() as store:
        first = await Process(store, tmp_path).start()
        kept = IdentityFile(tmp_path)
        found = kept.load()
        assert found is not None
        if when == "registering":  # written, and the transaction never came
            kept.save(msgspec.structs.replace(found, drawn=found.process + 1))
        else:  # the transaction came, and its answer was not written down
            kept.save(msgspec.structs.replace(found, process=found.process - 1))
        second = await Process(store, tmp_path).start()
        assert (second.marked, second.incarnation) == (0, first.incarnation)


@pytest.mark.parametrize("other", ["empty", "twin"])
async def test_a_living_process_keeps_its_name(tmp_path: Path, other: str) -> None:
    async with metadata() as store:
        first = await Process(store, tmp_path / "a").start()
        keeping = asyncio.create_task(first.claim.keep())
        if other == "twin":
            shutil.copytree(tmp_path / "a", tmp_path / "b")
        with pytest.raises(AlreadyRunningError, match="run by another process at h:1"):
            await Process(store, tmp_path / "b").start(empty=other == "empty")
        assert not first.claim.taken.is_set()
        assert (await ClaimedStore(first.claim).txn([], [Put("/x", b"1")])).succeeded
        keeping.cancel()


async def test_who_lost_its_name_writes_nothing_and_knows_it(tmp_path: Path) -> None:
    """It was silent for longer than its lease, and a twin of its folder was started."""
    async with metadata() as store:
        first = await Process(store, tmp_path / "a").start()
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        second = await Process(store, tmp_path / "b").start()
        with pytest.raises(FencedError):
            await ClaimedStore(first.claim).txn([], [Put("/x", b"1")])
        assert first.claim.taken.is_set()
        assert (await ClaimedStore(second.claim).txn([], [Put("/x", b"1")])).succeeded
        third = await Process(store, tmp_path / "a").start()
        assert third.marked == 1, "the folder of before the twin is old"


@pytest.mark.parametrize("coordinator_began", [True, False])
async def test_an_older_store_that_names_an_earlier_process_takes_no_name(
    tmp_path: Path, coordinator_began: bool
) -> None:
    async with metadata() as store:
        first = await Process(store, tmp_path).start()
        ours, older = store._tables, twin_of(store._tables)
        await first.claim.release()
        second = await Process(store, tmp_path).start()
        second.acted_on = ours.revision
        ours, store._tables = store._tables, older
        if coordinator_began:
            await open_generation(store, ENV, "tests")
        with pytest.raises(UnavailableError):
            await second.claim.check_name()
        assert not second.claim.taken.is_set()
        store._tables = ours
        await second.claim.look()
        assert (await ClaimedStore(second.claim).txn([], [Put("/x", b"1")])).succeeded


@pytest.mark.parametrize("stopped", [True, False])
async def test_an_older_copy_of_the_directory_is_known(tmp_path: Path, stopped: bool) -> None:
    """Made while the process was stopped, or while it ran: a start and a stop draw numbers."""
    async with metadata() as store:
        first = await Process(store, tmp_path / "a").start()
        if stopped:
            await first.claim.release()
        shutil.copytree(tmp_path / "a", tmp_path / "older")
        if stopped:
            first = await Process(store, tmp_path / "a").start()
        await first.claim.release()
        shutil.rmtree(tmp_path / "a")
        (tmp_path / "older").rename(tmp_path / "a")
        again = await Process(store, tmp_path / "a").start()
        assert again.marked == 1
        assert again.incarnation != first.incarnation


async def test_a_stop_gives_the_name_back_at_once(tmp_path: Path) -> None:
    async with metadata() as store:
        first = await Process(store, tmp_path).start()
        await first.claim.release()
        assert await store.get(process_key("i1")) is None
        second = await Process(store, tmp_path).start()
        assert (second.marked, second.incarnation) == (0, first.incarnation)


async def test_a_directory_of_another_instance_is_refused(tmp_path: Path) -> None:
    async with metadata() as store:
        await Process(store, tmp_path).start()
        kept = IdentityFile(tmp_path)
        found = kept.load()
        assert found is not None
        kept.save(msgspec.structs.replace(found, instance="i2"))
        with pytest.raises(WrongClusterError, match="'i2'"):
            Process(store, tmp_path)


@pytest.mark.parametrize("what", ["directory", "copy"])
async def test_another_cluster_is_refused_before_anything_is_written(
    tmp_path: Path, what: str
) -> None:
    async with metadata() as a, metadata() as b:
        first = await Process(a, tmp_path).start()
        await first.claim.release()
        facts = CopyFacts(first.claim.cluster, first.claim.generation, 1, b"", b"")
        if what == "copy":  # a person took the identity away, or moved the database alone
            (tmp_path / "identity.json").unlink()
        revision = b._tables.revision
        before = files(tmp_path)
        with pytest.raises(WrongClusterError, match="belongs to cluster"):
            await Process(b, tmp_path).start(facts)
        if what == "directory":
            with pytest.raises(WrongClusterError, match="belongs to cluster"):
                await check_directory(b, IdentityFile(tmp_path), "i1", ENV, None)
        assert b._tables.revision == revision
        assert files(tmp_path) == before


@pytest.mark.parametrize("known_by", ["directory", "copy"])
async def test_an_older_store_is_refused_until_it_is_accepted_by_hand(
    tmp_path: Path, known_by: str
) -> None:
    async with metadata() as store:
        older = copy_of(store)
        first = await Process(store, tmp_path).start()
        revision = (await store.txn([], [Put("/x", b"1")])).revision
        facts = CopyFacts(first.claim.cluster, first.claim.generation, revision, b"", b"")
        first.acted_on = revision if known_by == "directory" else 0
        await first.claim.release()
        lineage = await open_generation(older, ENV, "tests")
        copies = (facts,) if known_by == "copy" else ()
        with pytest.raises(WrongClusterError, match="older copy"):
            await Process(older, tmp_path).start(*copies)
        await Process(older, tmp_path, accepts=lineage.newest).start(*copies)
        await Process(older, tmp_path).start()
        await older.close()


async def test_accept_lets_a_directory_begin_with_a_recovered_store(tmp_path: Path) -> None:
    async with metadata() as store, metadata() as recovered:
        first = await Process(store, tmp_path).start()
        await first.claim.release()
        found = await recovered.get("/ids/cluster")
        assert found is not None
        cluster = first.claim.cluster.encode()
        await recovered.txn([Compare(found.key, found.revision)], [Put(found.key, cluster)])
        lineage = await open_generation(recovered, ENV, "tests", "recovered")
        with pytest.raises(WrongClusterError):
            accept(tmp_path, "another", lineage.newest, lineage.revision)
        accept(tmp_path, lineage.cluster, lineage.newest, lineage.revision)
        await Process(recovered, tmp_path).start()


async def test_a_running_process_is_estranged_while_the_store_is_another(tmp_path: Path) -> None:
    async with metadata() as store, metadata() as other:
        process = await Process(store, tmp_path).start()
        claimed = ClaimedStore(process.claim)
        process.claim.store = claimed._store = other
        for call in (claimed.get("/x"), claimed.range("/"), claimed.txn([], [Put("/x", b"1")])):
            with pytest.raises(UnavailableError):
                await call
        assert "belongs to cluster" in process.claim.estranged
        assert await other.get("/x") is None
        process.claim.store = claimed._store = store
        await process.claim.look()
        assert not process.claim.estranged
        assert (await claimed.txn([], [Put("/x", b"1")])).succeeded


async def test_a_new_generation_of_our_store_is_accepted_while_running(tmp_path: Path) -> None:
    async with metadata() as store:
        process = await Process(store, tmp_path).start()
        lineage = await open_generation(store, ENV, "another coordinator")
        claimed = ClaimedStore(process.claim)
        with pytest.raises(UnavailableError, match="new generation"):
            await claimed.txn([], [Put("/x", b"1")])
        assert (await claimed.txn([], [Put("/x", b"1")])).succeeded
        found = IdentityFile(tmp_path).load()
        assert found is not None
        assert found.generation == lineage.newest


async def test_an_instance_of_before_numbers_is_adopted_once(tmp_path: Path) -> None:
    async with metadata() as store:
        kept = IdentityFile(tmp_path)
        before = msgspec.json.encode({"boot_id": kept.boot_id, "incarnation": 77})
        (tmp_path / BEFORE_FILE).write_bytes(before)
        old = InstanceRecord("i1", "h:1", 77)
        await store.txn([], [Put(instance_key("i1"), encode(old))])
        process = await Process(store, tmp_path).start()
        assert (process.marked, process.incarnation) == (0, 77)
        assert not (tmp_path / BEFORE_FILE).exists()
        found = await store.get(instance_key("i1"))
        assert found is not None
        assert decode_instance(found.value).process == process.claim.identity.process


@pytest.mark.parametrize("damage", [b"", b"{", b'{"instance": 3}', b"\x00" * 80])
async def test_an_identity_that_cannot_be_read_is_told(tmp_path: Path, damage: bytes) -> None:
    async with metadata() as store:
        await (await Process(store, tmp_path).start()).claim.release()
        (tmp_path / "identity.json").write_bytes(damage)
        with pytest.raises(LogstoreError, match=r"identity\.json"):
            Process(store, tmp_path)
