"""`logstore up` over data of an earlier, different run: it says what is missing, new or changed."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.cli.main import main
from coordinator.local.survey import (
    RUN_FILE,
    Before,
    ClusterStart,
    before,
    check_metadata,
    keep,
    last_count,
    notes,
)
from logstore.base.errors import ConfigError
from logstore.base.types import ShardStatus
from logstore.client.sync_client import connect_sync
from logstore.meta.records import Member, ShardRecord
from sharder.keys import KeyRange

READY_S = 60.0


@dataclass(frozen=True)
class Up:
    """A cluster that runs; `notes`: what it said beside its first line."""

    address: str
    notes: list[str]


@contextmanager
def up(data: Path, *flags: str) -> Iterator[Up]:
    process = subprocess.Popen(
        [sys.executable, "-m", "coordinator.cli.main", "up", "--port", "0", "--data", str(data),
         "--set", "report_interval_s=0.2", "--json", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], READY_S)[0], "it is not ready"
        noted = json.loads(process.stdout.readline())
        yield Up(noted["ready"], noted["notes"])
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.splitlines() == [f"note: {sentence}" for sentence in noted["notes"]]


def test_what_an_instance_is_is_kept_for_the_next_start(tmp_path: Path) -> None:
    described = ("--instance", "name=fast,tier=nvme,zone=b,ops=500", "--instance", "zone=c")
    with up(tmp_path, "--instances", "3", *described) as first:
        assert rows(first) == [
            ("fast", "nvme", "b", 500.0),
            ("instance-1", "standard", "zone-a", None),
            ("instance-2", "standard", "c", None),
        ]
        with connect_sync(first.address) as db:
            db.create_log("one", instances=["fast"]).append(b"k", b"v")
    with up(tmp_path) as second:
        assert rows(second)[0] == ("fast", "nvme", "b", 500.0)
        assert second.notes == []
        with connect_sync(second.address) as db:
            assert [r.value for r in db.log("one").read()] == [b"v"]
    with up(tmp_path, "--instances", "1", "--instance", "name=instance-1") as third:
        assert any(
            n.startswith("fast is part of this cluster and not started") for n in third.notes
        )


def rows(found: Up) -> list[tuple[str, str, str, float | None]]:
    """Name, tier, zone and operations/s of each instance."""
    command = ["instances", "list", "--address", found.address, "--json"]
    answer = subprocess.run(
        [sys.executable, "-m", "coordinator.cli.main", *command], capture_output=True, check=True
    )
    listed = json.loads(answer.stdout)
    return [(i["instance"], i["tier"], i["zone"], i["capacity"]["ops_per_s"]) for i in listed]


def test_fewer_and_more_instances_than_the_data_has(tmp_path: Path) -> None:
    with up(tmp_path, "--instances", "3", "--replicas", "2") as first:
        assert first.notes == []
        with connect_sync(first.address) as db:
            db.create_log("one", shards=1, instances=["instance-3"], replicas=1)
            log = db.create_log("two", instances=["instance-1"])  # two copies
            log.append(b"k", b"v")
            deadline = time.monotonic() + 30
            while len(log.shard_map().shards[0].in_sync) < 2:
                assert time.monotonic() < deadline
            (other,) = set(log.shard_map().shards[0].in_sync) - {"instance-1"}
    with up(tmp_path, "--instances", "2") as second:
        missing = next(n for n in second.notes if n.startswith("instance-3"))
        held = 1 + (other == "instance-3")
        assert f"not started; it holds {held} copies; not served: one/0" in missing
        assert ("with a copy less: two/0" in missing) is (other == "instance-3")
        assert missing.endswith("--instances 3 starts it")
        assert any(n.startswith("--replicas is 1, it was 2") for n in second.notes)
        assert len(second.notes) == 2
    assert last_count(before(tmp_path)) == 3  # what `up` starts by default
    with up(tmp_path, "--instances", "4") as third:
        (new,) = third.notes
        assert new.startswith("instance-4 is new and empty")
        with connect_sync(third.address) as db:
            db.log("one").append(b"k", b"v")


def shard(name: str, *instances: str) -> ShardRecord:
    members = tuple(Member(instance, 1, n) for n, instance in enumerate(instances))
    return ShardRecord(
        shard=name, log=name.split("/")[0], range=KeyRange(), status=ShardStatus.OPEN, epoch=1,
        primary_since=1, primary=members[0], in_sync=members,
    )  # fmt: skip


def test_what_is_missing_is_told_by_shard() -> None:
    past = Before(ClusterStart(3), frozenset({"instance-1", "instance-2", "instance-3"}))
    shards = [shard(f"a/{n}", "instance-3") for n in range(7)]
    shards += [shard("b/0", "instance-1", "instance-3"), shard("c/0", "instance-1")]
    names = ["instance-1", "instance-2", "instance-3"]
    assert notes(past, ClusterStart(3), names, names, shards) == []
    assert notes(past, ClusterStart(3), ["instance-1", "instance-2"], names, shards) == [
        "instance-3 is part of this cluster and not started; it holds 8 copies; not served: a/0, "
        "a/1, a/2, a/3, a/4 and 2 more; with a copy less: b/0; --instances 3 starts it"
    ]
    assert notes(past, ClusterStart(3), ["instance-1", "instance-3"], names, shards) == [
        "instance-2 is part of this cluster and not started; it holds no copies"
    ]
    assert notes(Before(None, frozenset()), ClusterStart(1), names, names, []) == []


ETCD = "etcd://127.0.0.1:1"


@pytest.mark.parametrize(
    ("last", "store", "now", "noted"),
    [
        (
            ClusterStart(1),
            True,
            ETCD,
            "made with the embedded metadata store, and --metadata is etcd://",
        ),
        (None, True, ETCD, "made with the embedded metadata store"),
        (ClusterStart(1), False, ETCD, "made with the embedded metadata store"),
        (ClusterStart(1, ETCD), False, None, f"made with --metadata {ETCD}: give it"),
        (ClusterStart(1, ETCD), True, None, f"made with --metadata {ETCD}: give it"),
    ],
)
def test_another_kind_of_metadata_is_refused_before_anything_starts(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    last: ClusterStart | None,
    store: bool,
    now: str | None,
    noted: str,
) -> None:
    if store:
        (tmp_path / "coordinator" / "store").mkdir(parents=True)
    if last is not None:
        keep(tmp_path, last)
    flags = [] if now is None else ["--metadata", now]
    assert main(["up", "--data", str(tmp_path), "--port", "0", *flags]) == 2
    assert noted in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_the_same_metadata_is_taken_and_other_members_of_etcd_are_told(tmp_path: Path) -> None:
    for run in (ClusterStart(1), ClusterStart(1, ETCD)):
        keep(tmp_path, run)
        past = before(tmp_path)
        assert past.run == run
        check_metadata(tmp_path, past, run.metadata)
    (noted,) = notes(past, ClusterStart(1, "etcd://b:1"), [], [], [])
    assert noted == f"--metadata is etcd://b:1, it was {ETCD}"


def test_a_damaged_note_of_the_last_run_is_named(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text("{")
    with pytest.raises(ConfigError, match=r"up.json cannot be read: .* may be deleted"):
        before(tmp_path)
    assert os.listdir(tmp_path) == [RUN_FILE]
