"""Each trouble has its finding, with what to see and to do; a sound cluster has none."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli.checks import (
    ClusterFacts,
    CopyFactsSeen,
    FolderFacts,
    InstanceFacts,
    StoreFacts,
    examine,
    examine_folders,
    is_healthy,
)
from coordinator.cli.main import main
from logstore.base.types import ShardStatus
from logstore.meta.port import Put
from logstore.meta.records import (
    CLUSTER_ID,
    GenerationRecord,
    LogOptions,
    Member,
    PossibleLoss,
    ShardRecord,
    Tombstone,
    generation_key,
)
from logstore.meta.rocks import RocksMetadataStore
from sharder.keys import KeyRange

NOW_US = 10**15
A, B = Member("a", 1, 1), Member("b", 1, 2)


def sound() -> ClusterFacts:
    shard = ShardRecord("x/0", "x", KeyRange(), ShardStatus.OPEN, 3, 3, A, (A, B), min_in_sync=1)
    return ClusterFacts(
        now_us=NOW_US,
        cluster="c",
        generations=[GenerationRecord("g", "created", "c:1", NOW_US)],
        instances=[InstanceFacts(n, f"{n}:1", cluster="c") for n in "ab"],
        shards=[shard],
        options={"x": LogOptions(replicas=2)},
        copies=[CopyFactsSeen(m.instance, m.replica_id, "x/0", "member", 9, serving=m == A)
                for m in (A, B)],
    )  # fmt: skip


def with_instance(**changes: Any) -> ClusterFacts:
    facts = sound()
    return replace(facts, instances=[facts.instances[0], replace(facts.instances[1], **changes)])


def with_shard(**changes: Any) -> ClusterFacts:
    return replace(sound(), shards=[replace(sound().shards[0], **changes)])


def with_copy(**changes: Any) -> ClusterFacts:
    copy = CopyFactsSeen("b", 7, "y/0", "member")
    return replace(sound(), copies=[*sound().copies, replace(copy, **changes)])


def tombstone(age_s: int) -> ClusterFacts:
    answer = Tombstone("c", "b", "y/0", 9, 5, "moved", 600.0, NOW_US - age_s * 1_000_000)
    return replace(sound(), tombstones=[answer])


def recovered(age_s: int) -> ClusterFacts:
    began_us = NOW_US - age_s * 1_000_000
    return replace(sound(), generations=[GenerationRecord("r", "recovered", "x", began_us)])


CASES: dict[str, tuple[Callable[[], ClusterFacts], set[str]]] = {
    "sound": (sound, set()),
    "silent": (lambda: with_instance(error="refused"), {"instance-away", "under-replicated"}),
    "no process": (lambda: with_instance(registered=False),
                   {"instance-away", "under-replicated"}),
    "estranged": (lambda: with_instance(estranged="an older copy"), {"instance-estranged"}),
    "foreign": (lambda: with_instance(cluster="d"), {"wrong-cluster"}),
    "no reports": (lambda: with_instance(reports=False), {"statistics-silent"}),
    "full": (lambda: with_instance(stored_bytes=95, capacity_bytes=100.0), {"disk-nearly-full"}),
    "not full": (lambda: with_instance(stored_bytes=85, capacity_bytes=100.0), set()),
    "no leader": (lambda: replace(sound(), copies=[replace(c, serving=False)
                                                   for c in sound().copies]), {"no-leader"}),
    "few": (lambda: with_shard(in_sync=(A,)), {"under-replicated"}),
    "too few": (lambda: with_shard(in_sync=(A,), min_in_sync=2), {"below-min-in-sync"}),
    "loss": (lambda: with_shard(possible_loss=(PossibleLoss(2, 40, "power"),)),
             {"possible-loss"}),
    "damaged": (lambda: with_copy(damage="a hole"), {"damaged-copy"}),
    "failed": (lambda: with_copy(error="no space"), {"damaged-copy"}),
    "orphan": (lambda: with_copy(state="orphan"), {"orphan-copy"}),
    "missing": (lambda: with_copy(state="missing"), {"missing-copy"}),
    "retired": (lambda: with_copy(state="retired"), {"retired-space"}),
    "old tombstone": (lambda: tombstone(601), {"tombstone-waits"}),
    "new tombstone": (lambda: tombstone(599), set()),
    "recovered": (lambda: recovered(60), {"recovered-generation"}),
    "recovered long ago": (lambda: recovered(8 * 86_400), set()),
}  # fmt: skip
NOTES = {"retired-space", "recovered-generation"}


@pytest.mark.parametrize("case", CASES)
def test_each_trouble_has_its_finding(case: str) -> None:
    make, wanted = CASES[case]
    found = examine(make())
    assert {f.code for f in found} == wanted
    assert is_healthy(found) == (wanted <= NOTES)
    for finding in found:
        assert finding.what
        assert finding.see
        assert finding.do


def test_many_copies_are_named_in_part() -> None:
    copies = [CopyFactsSeen("b", n, "y/0", "orphan", 10) for n in range(100, 150)]
    (found,) = examine(replace(sound(), copies=[*sound().copies, *copies]))
    assert "and 45 more: 500 bytes" in found.what


# ---- folders -----------------------------------------------------------------------------------

FOLDERS = [FolderFacts(f"d/{n}", n, "c", "g2", 50) for n in ("i1", "i2")]
STORE = StoreFacts("d/coordinator", there=True, cluster="c", began={"g1": 1, "g2": 40},
                   revision=60)  # fmt: skip


@pytest.mark.parametrize(
    ("folders", "store", "codes"),
    [
        (FOLDERS, STORE, set()),
        (FOLDERS, replace(STORE, there=False), {"no-metadata"}),
        (FOLDERS, replace(STORE, error="corrupt"), {"no-metadata"}),
        (FOLDERS, replace(STORE, running=True, cluster=""), set()),
        (FOLDERS, replace(STORE, cluster="d"), {"wrong-cluster"}),
        (FOLDERS, replace(STORE, revision=49), {"old-metadata"}),
        (FOLDERS, replace(STORE, began={"g1": 1}), {"old-metadata"}),
        (FOLDERS, replace(STORE, began={"g1": 1, "g2": 40, "g3": 45}), {"old-metadata"}),
        (FOLDERS, replace(STORE, began={"g1": 1, "g2": 40, "g3": 55}), set()),
        ([FOLDERS[0], replace(FOLDERS[1], cluster="d")], STORE, {"wrong-cluster"}),
        ([FOLDERS[0], replace(FOLDERS[1], instance="i1")], STORE, {"instance-twice"}),
        ([FOLDERS[0], FolderFacts("d/i2", error="none")], STORE, {"folder-unknown"}),
        ([FolderFacts("d/i1", error="none")], replace(STORE, there=False), {"folder-unknown"}),
    ],
)
def test_folders_that_do_not_belong_together_are_told(
    folders: list[FolderFacts], store: StoreFacts, codes: set[str]
) -> None:
    assert {f.code for f in examine_folders(folders, store)} == codes


def identity(folder: Path, cluster: str, generation: str, revision: int) -> None:
    folder.mkdir()
    known = {"instance": folder.name, "cluster": cluster, "generation": generation,
             "revision": revision}  # fmt: skip
    (folder / "identity.json").write_text(json.dumps(known))


async def make_store(home: Path) -> None:
    store = RocksMetadataStore(home)
    await store.txn([], [Put(CLUSTER_ID, b"c1"), Put(generation_key("g1"), b"{}")])
    await store.close()


@pytest.mark.parametrize(
    ("cluster", "revision", "with_store", "code", "status"),
    [
        ("c1", 1, True, None, 0),
        ("c1", 99, True, "old-metadata", 1),
        ("c9", 1, True, "wrong-cluster", 1),
        ("c1", 1, False, "no-metadata", 1),
    ],
)
def test_the_command_on_a_stopped_cluster(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cluster: str,
    revision: int,
    with_store: bool,
    code: str | None,
    status: int,
) -> None:
    identity(tmp_path / "instance-1", cluster, "g1", revision)
    if with_store:
        asyncio.run(make_store(tmp_path / "coordinator"))
    assert main(["doctor", "--data", str(tmp_path), "--json"]) == status
    answer = json.loads(capsys.readouterr().out)
    assert [f["code"] for f in answer["findings"]] == ([code] if code else [])
    assert answer["healthy"] is (status == 0)
    assert main(["doctor", "--data", str(tmp_path)]) == status
    out = capsys.readouterr().out
    assert out.endswith("not healthy\n" if status else "healthy\n")
    assert ("  do: " in out) is bool(status)
