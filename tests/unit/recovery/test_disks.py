"""Recovery over real engines and real stores: directories in, a metadata store out."""

import asyncio
import hashlib
import json
from pathlib import Path

import pytest

from coordinator.cli.main import main
from coordinator.recovery.disks import Disks, instance_directories
from coordinator.recovery.facts import decode_scan
from coordinator.recovery.plan import make_plan
from coordinator.recovery.write import write_embedded, write_etcd
from logstore.base.env import Env
from logstore.base.errors import ConfigError, ConflictError, DirectoryInUseError, RefusedError
from logstore.base.types import ShardStatus
from logstore.engine.port import CopyFacts, ReplicaMeta, Retired
from logstore.engine.rocks import RocksEngine
from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.port import Put
from logstore.meta.records import (
    CLUSTER_ID,
    GENERATION,
    GENERATIONS,
    LOGS,
    REPLICA_COUNTER,
    SHARDS,
    LogOptions,
    LogRecord,
    Member,
    ShardRecord,
    decode_log,
    decode_shard,
    encode,
    generation_key,
)
from logstore.meta.rocks import RocksMetadataStore
from logstore.meta.tombstones import deletion_of
from sharder.keys import even_ranges
from tests.support.engine import append

CLUSTER = "c1"
LOG = LogRecord("orders", LogOptions(replicas=2, min_in_sync=1), 2, 5)


def identity(directory: Path, instance: str, cluster: str = CLUSTER) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    known = {"instance": instance, "cluster": cluster, "boot_id": "b", "incarnation": 3,
             "process": 42, "drawn": 0, "generation": "g1", "revision": 70}  # fmt: skip
    (directory / "identity.json").write_text(json.dumps(known))


def members(number: int, count: int) -> tuple[Member, ...]:
    return tuple(Member(f"instance-{i + 1}", 3, 10 * number + i) for i in range(count))


def make(data: Path, replicas: int, records: int = 30) -> None:
    """A stopped cluster: three instances, a log of two shards, `records` in each."""
    shards = [
        ShardRecord(f"orders/{n}", "orders", keys, ShardStatus.OPEN, 4, 4,
                    members(n + 1, replicas)[0], members(n + 1, replicas))
        for n, keys in enumerate(even_ranges(LOG.options.partitioner, 2))
    ]  # fmt: skip
    for number in range(1, 4):
        name = f"instance-{number}"
        identity(data / name, name)
        engine = RocksEngine.open(data / name)
        for shard in shards:
            member = shard.member_on(name)
            if member is None:
                continue
            engine.create_replica(ReplicaMeta(member.replica_id, shard.shard))
            for _ in range(records):
                append(engine, member.replica_id, [b"k"])
            facts = CopyFacts(CLUSTER, "g1", 66, encode(shard), encode(LOG))
            engine.set_facts(member.replica_id, facts)
        engine.close()


class Accepted:
    """Takes the place of the owner of identity.json."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str, int]] = []

    def __call__(self, data: Path, cluster: str, generation: str, revision: int) -> None:
        self.calls.append((data.name, cluster, generation, revision))


@pytest.mark.parametrize("replicas", [1, 3])
async def test_a_lost_folder_is_rebuilt_from_the_disks(tmp_path: Path, replicas: int) -> None:
    make(tmp_path, replicas)
    accepted = Accepted()
    with Disks(instance_directories(tmp_path)) as disks:
        scan = disks.scan()
        plan = make_plan(scan.instances, scan.copies)
        assert plan.records == {"orders": 60}
        written = await write_embedded(tmp_path / "coordinator", plan, Env())
        disks.accept(plan.cluster, written.generation, written.revision, accepted)
    assert accepted.calls == [
        (f"instance-{n}", CLUSTER, written.generation, written.revision) for n in (1, 2, 3)
    ]
    assert written.aside == ""
    store = RocksMetadataStore(tmp_path / "coordinator")
    (generation,) = (await store.range(GENERATIONS)).items
    assert (generation.key, generation.revision) == (
        generation_key(written.generation),
        written.revision,
    )
    newest, cluster = await store.get(GENERATION), await store.get(CLUSTER_ID)
    assert newest is not None
    assert cluster is not None
    assert (newest.value.decode(), cluster.value.decode()) == (written.generation, CLUSTER)
    assert written.revision > 1_000_070
    logs = [decode_log(i.value) for i in (await store.range(LOGS)).items]
    assert [(log.name, log.options) for log in logs] == [("orders", LOG.options)]
    shards = [decode_shard(i.value) for i in (await store.range(SHARDS)).items]
    assert {s.shard: len(s.members()) for s in shards} == {
        "orders/0": replicas,
        "orders/1": replicas,
    }
    assert all(s.epoch > 4 and not s.possible_loss for s in shards)
    counter = await store.get(REPLICA_COUNTER)
    assert counter is not None
    assert int(counter.value) > 1_000_000
    await store.close()


def checksums(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}  # fmt: skip


async def test_an_old_folder_is_moved_aside_untouched_and_never_twice_to_one_place(
    tmp_path: Path,
) -> None:
    make(tmp_path, 1)
    home = tmp_path / "coordinator"
    before = RocksMetadataStore(home)
    await before.txn([], [Put("/logs/of-another-time", b"{}")])
    await before.close()
    held = checksums(home)
    with Disks(instance_directories(tmp_path)) as disks:
        scan = disks.scan()
        plan = make_plan(scan.instances, scan.copies)
        first = await write_embedded(home, plan, Env())
        second = await write_embedded(home, plan, Env())
    assert first.aside == str(tmp_path / "coordinator.before-recover-1")
    assert second.aside == str(tmp_path / "coordinator.before-recover-2")
    assert checksums(tmp_path / "coordinator.before-recover-1") == held
    assert not (tmp_path / "coordinator.recovering").exists()


async def test_a_running_instance_or_coordinator_is_not_touched(tmp_path: Path) -> None:
    make(tmp_path, 1)
    running = RocksEngine.open(tmp_path / "instance-2")
    with pytest.raises(DirectoryInUseError):
        Disks(instance_directories(tmp_path))
    running.close()
    store = RocksMetadataStore(tmp_path / "coordinator")
    with Disks(instance_directories(tmp_path)) as disks:  # the failed one let go of instance-1
        scan = disks.scan()
        with pytest.raises(DirectoryInUseError):
            RocksEngine.open(tmp_path / "instance-1")
        plan = make_plan(scan.instances, scan.copies)
        with pytest.raises(DirectoryInUseError):
            await write_embedded(tmp_path / "coordinator", plan, Env())
    await store.close()


async def test_an_etcd_that_is_not_empty_is_refused_or_written_to_a_file_first(
    tmp_path: Path,
) -> None:
    make(tmp_path, 1)
    store = MemoryMetadataStore()
    for i in range(300):
        await store.txn([], [Put(f"/old/{i:03}", b"\x00\xff%d" % i)])
    with Disks(instance_directories(tmp_path)) as disks:
        scan = disks.scan()
    plan = make_plan(scan.instances, scan.copies)
    with pytest.raises(RefusedError, match="300 keys"):
        await write_etcd(store, plan, Env(), None)
    assert len((await store.range("/old/")).items) == 300
    taken = tmp_path / "old.json"
    written = await write_etcd(store, plan, Env(), taken)
    assert written.aside == str(taken)
    rows = json.loads(taken.read_text())
    assert [row["key"] for row in rows] == [f"/old/{i:03}" for i in range(300)]
    assert rows[7]["value_base64"] == "AP83"
    assert (await store.range("/old/")).items == ()
    assert len((await store.range(SHARDS)).items) == 2
    with pytest.raises(RefusedError, match="exists already"):
        await write_etcd(store, plan, Env(), taken)


async def test_who_it_is_comes_last_and_is_refused_when_somebody_else_wrote(
    tmp_path: Path,
) -> None:
    make(tmp_path, 1)
    with Disks(instance_directories(tmp_path)) as disks:
        scan = disks.scan()
    plan = make_plan(scan.instances, scan.copies)

    class Raced(MemoryMetadataStore):
        """A coordinator begins with the empty store while it is written."""

        async def range(self, prefix: str):  # type: ignore[no-untyped-def]
            found = await super().range(prefix)
            await super().txn([], [Put("/ids/cluster", b"other")])
            return found

    store = Raced()
    with pytest.raises(ConflictError, match="another process wrote"):
        await write_etcd(store, plan, Env(), None)
    assert (await store.get("/ids/generation")) is None


def test_copies_retired_and_damaged_are_read_as_they_are(tmp_path: Path) -> None:
    make(tmp_path, 2)
    engine = RocksEngine.open(tmp_path / "instance-1")
    engine.retire_replica(10, Retired(deletion_of("orders"), 66, 1, 2_000_000))
    engine.close()
    with Disks(instance_directories(tmp_path)) as disks:
        found = {c.replica_id: c for c in disks.scan().copies}
    assert set(found) == {10, 11, 20, 21}
    assert (found[10].retired, found[10].keep_until_us) == ("log orders was deleted", 2_000_000)
    assert (found[10].end, found[20].end, found[20].last_epoch) == (30, 30, 1)
    assert found[10].chain == found[11].chain != b""


# ---- the command -------------------------------------------------------------------------------


def test_the_command_shows_and_writes_nothing_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, 1)
    assert main(["recover", "--data", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "cluster c1" in out
    assert "orders/1" in out
    assert "nothing was written; --yes writes it" in out
    assert not (tmp_path / "coordinator").exists()
    assert main(["recover", "--data", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["logs"], answer["written"]) == ([{"log": "orders", "records": 60}], None)


def test_a_directory_that_is_given_twice_is_read_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, 1, records=1)
    again = ["--instance-data", str(tmp_path / "." / "instance-1")]
    assert main(["recover", "--data", str(tmp_path), *again, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["logs"] == [{"log": "orders", "records": 2}]


def test_what_cannot_be_recovered_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, 1)
    for gone in ("2", "3"):
        (tmp_path / f"instance-{gone}").rename(tmp_path / f"away-{gone}")
    engine = RocksEngine.open(tmp_path / "instance-1")
    engine.drop_replica(10)
    engine.close()
    assert main(["recover", "--data", str(tmp_path)]) == 0
    assert "NOT RECOVERED: orders: no copy of the keys in" in capsys.readouterr().out
    assert main(["recover", "--data", str(tmp_path), "--fill-holes"]) == 0
    assert "LOST: orders: no copy of the keys in" in capsys.readouterr().out


def test_directories_of_two_machines_join_by_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, 2)
    far = tmp_path / "far.json"
    arguments = ["recover", "--instance-data", str(tmp_path / "instance-2"), "--scan-to", str(far)]
    assert main(arguments) == 0
    assert len(decode_scan(far.read_bytes()).copies) == 2
    arguments = ["recover", "--instance-data", str(tmp_path / "instance-1"), "--facts", str(far),
                 "--coordinator", str(tmp_path / "new"), "--json"]  # fmt: skip
    capsys.readouterr()
    assert main(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [len(s["learners"]) for s in answer["shards"]] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--data", "{d}/empty"], "has no folder instance-*"),
        (["--instance-data", "{d}/none", "--coordinator", "{d}/c"], "is no directory"),
        (["--instance-data", "{d}/empty", "--coordinator", "{d}/c"], "holds no identity.json"),
        (["--instance-data", "{d}/instance-1"], "give one place for the metadata"),
        (["--data", "{d}", "--metadata", "etcd://h:1", "--coordinator", "{d}/c"], "give one"),
        (["--data", "{d}", "--replace", "{d}/f"], "--replace is about etcd"),
        (["--data", "{d}", "--facts", "{d}/bad.json"], "--facts"),
        (["--data", "{d}", "--instance-data", "{d}/foreign"], "2 clusters"),
        (["--data", "{d}", "--instance-data", "{d}/twin"], "two directories are those of"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    make(tmp_path, 1, records=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("[]")
    identity(tmp_path / "foreign", "other", "c2")
    identity(tmp_path / "twin", "instance-1")
    assert main(["recover", *(a.format(d=tmp_path) for a in arguments)]) in (1, 2)
    answer = capsys.readouterr().err
    assert text in answer
    assert "Traceback" not in answer
    assert not (tmp_path / "coordinator").exists()


def test_an_old_store_never_begins_anew(tmp_path: Path) -> None:
    async def open_twice() -> None:
        store = RocksMetadataStore(tmp_path, begin_after=500)
        assert (await store.txn([], [Put("/a", b"")])).revision == 501
        await store.close()
        with pytest.raises(ConfigError, match="begin_after is 9"):
            RocksMetadataStore(tmp_path, begin_after=9)

    asyncio.run(open_twice())
