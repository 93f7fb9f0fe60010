"""What is wrong with a cluster, how to see it and what to do: checks over facts. Pure.

A finding's code is stable: scripts may wait for it. A cluster with only `note` findings is healthy.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from logstore.base.types import ShardStatus
from logstore.meta.generations import Lineage, Point
from logstore.meta.records import GenerationRecord, LogOptions, ShardRecord, Tombstone

TOMBSTONE_WAITS_US = 600_000_000
"""A tombstone is reported if its instance did not confirm it for this long."""
RECOVERED_TOLD_US = 7 * 86_400_000_000
"""A recovery is reported for a week."""
FULL_SHARE = 0.9
"""Share of an instance's stated capacity."""
NAMED_MAX = 5
"""Shards or copies named in one finding."""

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True, slots=True)
class Finding:
    code: str
    severity: str
    subject: str
    what: str
    see: str
    do: str


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """`registered`: a process holds the name; `error`: why it did not answer; `cluster`,
    `estranged`: by its own report; `stored`, `capacity`: bytes; `reports`: statistics come."""

    instance: str
    address: str
    registered: bool = True
    error: str = ""
    cluster: str = ""
    estranged: str = ""
    reports: bool = True
    stored_bytes: int = 0
    capacity_bytes: float | None = None
    draining: bool = False


@dataclass(frozen=True, slots=True)
class CopyFactsSeen:
    """A copy as `logstore copies` shows it, with its instance's report on its health."""

    instance: str
    replica_id: int
    shard: str
    state: str
    size_bytes: int = 0
    damage: str = ""
    error: str = ""
    serving: bool = False


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    now_us: int
    cluster: str = ""
    generations: Sequence[GenerationRecord] = ()
    instances: Sequence[InstanceFacts] = ()
    shards: Sequence[ShardRecord] = ()
    options: Mapping[str, LogOptions] = field(default_factory=dict)
    copies: Sequence[CopyFactsSeen] = ()
    tombstones: Sequence[Tombstone] = ()


def examine(facts: ClusterFacts) -> list[Finding]:
    """Everything that is wrong, errors first."""
    checks = (_instances, _shards, _copies, _tombstones, _generations)
    found = [finding for check in checks for finding in check(facts)]
    order = (ERROR, WARNING, NOTE)
    return sorted(found, key=lambda f: (order.index(f.severity), f.code, f.subject))


def is_healthy(findings: Iterable[Finding]) -> bool:
    return all(f.severity == NOTE for f in findings)


def _instances(facts: ClusterFacts) -> Iterator[Finding]:
    for i in facts.instances:
        see = "logstore instances"
        if i.error or not i.registered:
            yield Finding(
                "instance-away", ERROR, i.instance,
                f"it does not answer at {i.address}{f' ({i.error})' if i.error else ''}"
                + ("" if i.registered else "; no process holds its name"),
                see, "start it; if its machine is gone for good, wait until its shards have other "
                f"copies and run: logstore instances retire {i.instance}",
            )  # fmt: skip
            continue
        if i.estranged:
            yield Finding(
                "instance-estranged", ERROR, i.instance, f"it does not follow the metadata: "
                f"{i.estranged}", f"logstore copies list {i.instance}",
                "give the cluster its newest metadata back, or stop everything and run: "
                "logstore recover",
            )  # fmt: skip
        elif i.cluster and facts.cluster and i.cluster != facts.cluster:
            yield Finding(
                "wrong-cluster", ERROR, i.instance, f"it belongs to cluster {i.cluster}, the "
                f"metadata is of cluster {facts.cluster}", see,
                "stop it and start it with its own data directory",
            )  # fmt: skip
        if not i.reports:
            yield Finding(
                "statistics-silent", WARNING, i.instance, "no statistics come from it, so nothing "
                "is planned for its shards", "logstore stats",
                "look at its log for the coordinator's address, and whether it can reach it",
            )  # fmt: skip
        if i.capacity_bytes and i.stored_bytes > FULL_SHARE * i.capacity_bytes:
            yield Finding(
                "disk-nearly-full", WARNING, i.instance,
                f"{i.stored_bytes:,} of {i.capacity_bytes:,.0f} bytes are stored",
                "logstore stats", "add an instance, shorten a log's retention, or discard retired "
                f"copies: logstore copies list {i.instance} --retired",
            )  # fmt: skip


def _shards(facts: ClusterFacts) -> Iterator[Finding]:
    away = {i.instance for i in facts.instances if i.error or not i.registered}
    serving = {(c.shard, c.replica_id) for c in facts.copies if c.serving}
    for s in facts.shards:
        see = f"logstore shards {s.log}"
        if s.primary.instance in away or (s.shard, s.primary.replica_id) not in serving:
            others = [m.instance for m in s.in_sync if m.instance not in away and m != s.primary]
            yield Finding(
                "no-leader", ERROR, s.shard, f"its primary on {s.primary.instance} does not serve",
                see, "another member takes over within seconds" if others else
                f"start {s.primary.instance}: it holds the only copy in sync",
            )  # fmt: skip
        options = facts.options.get(s.log)
        live = [m for m in s.in_sync if m.instance not in away]
        if s.status is not ShardStatus.SEALED and len(live) < s.min_in_sync:
            yield Finding(
                "below-min-in-sync", ERROR, s.shard, f"{len(live)} copies are in sync, appends "
                f"need {s.min_in_sync}", see, "start the instances that are away",
            )  # fmt: skip
        elif options is not None and len(live) < options.replicas:
            yield Finding(
                "under-replicated", WARNING, s.shard,
                f"{len(live)} of {options.replicas} copies are in sync", see,
                "it is repaired by itself where enough instances live; start those that are away",
            )  # fmt: skip
        for loss in s.possible_loss[-1:]:
            yield Finding(
                "possible-loss", WARNING, s.shard, f"acked records from offset {loss.offset} on "
                f"may be missing since epoch {loss.epoch} ({loss.cause})", see,
                "send again what was acked then, if its source still has it",
            )  # fmt: skip


def _copies(facts: ClusterFacts) -> Iterator[Finding]:
    for c in facts.copies:
        if not (c.damage or c.error):
            continue
        yield Finding(
            "damaged-copy", ERROR, f"{c.shard} on {c.instance}", c.damage or c.error,
            f"logstore verify {c.shard} --deep", "with another copy in sync it is built again by "
            "itself; else look at the disk, and at the instance's log",
        )  # fmt: skip
    by_state: dict[tuple[str, str], list[CopyFactsSeen]] = defaultdict(list)
    for c in facts.copies:
        by_state[c.state, c.instance].append(c)
    for (state, instance), held in sorted(by_state.items()):
        names = ", ".join(f"{c.replica_id} ({c.shard})" for c in held[:NAMED_MAX])
        names += f" and {len(held) - NAMED_MAX} more" if len(held) > NAMED_MAX else ""
        size = sum(c.size_bytes for c in held)
        see = f"logstore copies list {instance}"
        if state == "orphan":
            yield Finding(
                "orphan-copy", WARNING, instance, f"no shard names its copies {names}: {size:,} "
                "bytes that are kept and not served", f"{see} --orphans",
                "logstore copies adopt or copies discard",
            )  # fmt: skip
        elif state == "missing":
            yield Finding(
                "missing-copy", ERROR, instance, f"shards name its copies {names}, which are not "
                "on its disk", see, "was its data directory changed? Put the right one back",
            )  # fmt: skip
        elif state == "retired":
            yield Finding(
                "retired-space", NOTE, instance, f"{len(held)} retired copies take {size:,} bytes",
                f"{see} --retired", "nothing: they go when their time is over",
            )  # fmt: skip


def _tombstones(facts: ClusterFacts) -> Iterator[Finding]:
    old: dict[str, list[Tombstone]] = defaultdict(list)
    for t in facts.tombstones:
        if facts.now_us - t.created_us > TOMBSTONE_WAITS_US:
            old[t.instance].append(t)
    for instance, waiting in sorted(old.items()):
        minutes = (facts.now_us - min(t.created_us for t in waiting)) // 60_000_000
        yield Finding(
            "tombstone-waits", WARNING, instance, f"{len(waiting)} copies were ordered away up to "
            f"{minutes} min ago, and it has not confirmed", f"logstore copies list {instance}",
            f"start it; if it will not come back: logstore instances retire {instance}",
        )  # fmt: skip


def _generations(facts: ClusterFacts) -> Iterator[Finding]:
    for g in facts.generations:
        if g.cause == "recovered" and facts.now_us - g.began_us < RECOVERED_TOLD_US:
            yield Finding(
                "recovered-generation", NOTE, g.id, "the metadata was recovered from disks lately; "
                "events, profiles and drains are not in it", "logstore shards",
                "look for possible losses, and announce events again",
            )  # fmt: skip


# ---- a stopped cluster -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A data directory: its name and its identity; `error`: why it could not be read."""

    folder: str
    instance: str = ""
    cluster: str = ""
    generation: str = ""
    revision: int = 0
    running: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """The coordinator's folder: whether it exists, whether a process runs it, and its content.
    `began`: generation -> its first revision."""

    folder: str
    there: bool
    running: bool = False
    cluster: str = ""
    began: Mapping[str, int] = field(default_factory=dict)
    revision: int = 0
    error: str = ""

    def holds(self, generation: str, revision: int) -> bool:
        """Whether its history contains the point (design note 0008)."""
        lineage = Lineage("", dict(self.began), self.revision, "")
        return lineage.holds(Point(generation, revision))


def examine_folders(folders: Sequence[FolderFacts], store: StoreFacts) -> list[Finding]:
    """The findings from the folders of a stopped cluster."""
    found = [*_folders(folders)]
    clusters = {f.cluster for f in folders if f.cluster}
    in_etcd = "://" in store.folder
    see = f"etcdctl get --prefix / ({store.folder})" if in_etcd else f"ls {store.folder}"
    recover = "put the newest one back, or rebuild it: logstore recover --data DIR"
    recover += f" --metadata {store.folder}" if in_etcd else ""
    if store.error:
        found.append(Finding("no-metadata", ERROR, store.folder, store.error, see, recover))
    elif not store.there and clusters:
        what = (
            f"it holds no metadata, the instances belong to cluster {', '.join(sorted(clusters))}"
        )
        do = recover if in_etcd else f"{recover}; for metadata in etcd add --metadata URL"
        found.append(Finding("no-metadata", ERROR, store.folder, what, see, do))
    elif store.there and not store.running:
        found += _against(folders, store, recover)
    return found


def _folders(folders: Sequence[FolderFacts]) -> Iterator[Finding]:
    by_cluster: dict[str, list[str]] = defaultdict(list)
    by_name: dict[str, list[str]] = defaultdict(list)
    for f in folders:
        if f.error:
            yield Finding("folder-unknown", WARNING, f.folder, f.error, f"ls {f.folder}",
                          "nothing, if it is new; else it is not the right folder")  # fmt: skip
            continue
        by_cluster[f.cluster].append(f.folder)
        by_name[f.instance].append(f.folder)
    for name, held in sorted(by_name.items()):
        if len(held) > 1:
            yield Finding("instance-twice", ERROR, name, f"{', '.join(held)} are all its",
                          "cat */identity.json", "keep the newest one only")  # fmt: skip
    if len(by_cluster) > 1:
        listed = "; ".join(f"{c}: {', '.join(held)}" for c, held in sorted(by_cluster.items()))
        yield Finding("wrong-cluster", ERROR, "folders", f"they belong to {len(by_cluster)} "
                      f"clusters ({listed})", "cat */identity.json",
                      "move each under the folder of its own cluster")  # fmt: skip


def _against(folders: Sequence[FolderFacts], store: StoreFacts, recover: str) -> Iterator[Finding]:
    for f in folders:
        if f.error:
            continue
        if store.cluster and f.cluster and f.cluster != store.cluster:
            yield Finding(
                "wrong-cluster", ERROR, f.folder, f"it belongs to cluster {f.cluster}, the "
                f"metadata in {store.folder} to {store.cluster}", f"cat {f.folder}/identity.json",
                "move it under the folder of its own cluster",
            )  # fmt: skip
        elif f.cluster and not store.holds(f.generation, f.revision):
            yield Finding(
                "old-metadata", ERROR, store.folder, f"it does not hold revision {f.revision} of "
                f"generation {f.generation}, which {f.instance} acted on: it is an older copy",
                f"cat {f.folder}/identity.json", recover,
            )  # fmt: skip
