"""`logstore doctor`: what is wrong, how to see it, what to do."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from coordinator.answers.catalog import CopyRow
from coordinator.answers.statistics import InstanceNow, Stats
from coordinator.catalog.copies import Held, rows_of
from coordinator.cli.checks import (
    ClusterFacts,
    CopyFactsSeen,
    Finding,
    FolderFacts,
    InstanceFacts,
    StoreFacts,
    examine,
    examine_folders,
    is_healthy,
)
from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    Coordinator,
    print_json,
    run,
)
from coordinator.cli.recover import COORDINATOR
from coordinator.config import CoordinatorConfig
from coordinator.recovery.disks import instance_directories, read_identity
from logstore.base.env import Env
from logstore.base.errors import DirectoryInUseError, InvalidArgumentError, LogstoreError
from logstore.meta.port import MetadataStore
from logstore.meta.records import CLUSTER_ID, GENERATIONS
from logstore.meta.remote import RemoteMetadataStore
from logstore.meta.rocks import RocksMetadataStore
from logstore.meta.tables import (
    drain_table,
    generation_table,
    instance_table,
    log_table,
    process_table,
    shard_table,
    text_table,
    tombstone_table,
)
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.status import called
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub

CALL_TIMEOUT_S = 5.0


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Look at the folders of a stopped `logstore up` instead."),
    ] = None,
    metadata: Annotated[
        str | None,
        typer.Option(metavar="URL", help="With --data: the etcd of the cluster."),
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with the cluster, how to see it and what to do.

    Exit status 1: something is. Each finding has a code that stays the same.

    Example: logstore doctor
    Example: logstore doctor --data ./data
    """
    if metadata is not None and data is None:
        raise InvalidArgumentError("--metadata is about the folders of --data: give that too")
    stopped = run(_stopped(data, metadata)) if data is not None else None
    findings = examine(run(_running(address))) if stopped is None else stopped
    if as_json:
        print_json({"healthy": is_healthy(findings),
                    "findings": [msgspec.to_builtins(f) for f in findings]})  # fmt: skip
    else:
        for finding in findings:
            typer.echo(_text(finding))
        typer.echo("healthy" if is_healthy(findings) else "not healthy")
    raise typer.Exit(0 if is_healthy(findings) else 1)


def _text(f: Finding) -> str:
    return f"{f.severity.upper()} {f.code}: {f.subject}: {f.what}\n  see: {f.see}\n  do: {f.do}"


# ---- a running cluster -------------------------------------------------------------------------


async def _running(address: str) -> ClusterFacts:
    store = RemoteMetadataStore([a.strip() for a in address.split(",") if a.strip()])
    try:
        async with Coordinator(address) as coordinator:
            stats = await coordinator.ask("Statistics", "Stats", pb.StatsRequest(), Stats)
        return await _facts(store, stats.instances)
    finally:
        await store.close()


async def _facts(store: MetadataStore, statuses: Mapping[str, InstanceNow]) -> ClusterFacts:
    cluster = await text_table(store).get(CLUSTER_ID)
    records = await instance_table(store).all()
    processes = set(await process_table(store).names())
    draining = set(await drain_table(store).names())
    shards = await shard_table(store).all()
    answers = await asyncio.gather(*(_ask(r.instance, r.address) for r in records))
    instances = []
    for record, (held, _) in zip(records, answers, strict=True):
        status = statuses.get(record.instance)
        instances.append(
            InstanceFacts(
                instance=record.instance,
                address=record.address,
                registered=record.instance in processes,
                error=held.error,
                cluster=held.answer.cluster if held.answer is not None else "",
                estranged=held.answer.estranged if held.answer is not None else "",
                reports=status is not None and status.alive,
                stored_bytes=status.stored_bytes if status is not None else 0,
                capacity_bytes=record.capacity.stored_bytes,
                draining=record.instance in draining,
            )
        )
    health = {(h.instance, s.replica_id): s for h, states in answers for s in states}
    rows = rows_of([held for held, _ in answers], shards)
    logs = await log_table(store).all()
    return ClusterFacts(
        now_us=Env().clock.wall_us(),
        cluster=cluster or "",
        generations=await generation_table(store).all(),
        instances=instances,
        shards=shards,
        options={log.name: log.options for log in logs},
        copies=[_copy(row, health.get((row.instance, row.replica_id))) for row in rows],
        tombstones=await tombstone_table(store).all(),
    )


def _copy(row: CopyRow, status: node_pb2.ReplicaStatus | None) -> CopyFactsSeen:
    return CopyFactsSeen(
        row.instance, row.replica_id, row.shard, row.state, row.size_bytes or 0,
        status.damage if status else "", status.error if status else "",
        status.serving if status else False,
    )  # fmt: skip


async def _ask(instance: str, address: str) -> tuple[Held, list[node_pb2.ReplicaStatus]]:
    """The copies of the instance, and their health."""
    try:
        async with open_channel(address) as channel, called():
            stub = NodeAdminStub(channel)
            held = await stub.Copies(node_pb2.CopiesRequest(), timeout=CALL_TIMEOUT_S)
            status = await stub.Status(node_pb2.StatusRequest(), timeout=CALL_TIMEOUT_S)
    except LogstoreError as e:
        return Held(instance, None, e.message), []
    return Held(instance, held), list(status.replicas)


# ---- a stopped one -----------------------------------------------------------------------------


async def _stopped(data: Path, metadata: str | None) -> list[Finding]:
    folders = [_folder(path) for path in instance_directories(data)]
    if metadata is None:
        return examine_folders(folders, await _embedded(data / COORDINATOR))
    config = CoordinatorConfig(data=data, metadata=metadata)
    return examine_folders(folders, await _read(metadata, config.open_metadata([metadata], None)))


def _folder(path: Path) -> FolderFacts:
    try:
        found = read_identity(path)
    except LogstoreError as e:
        return FolderFacts(str(path), error=e.message)
    return FolderFacts(str(path), found.instance, found.cluster, found.generation, found.revision)


async def _embedded(home: Path) -> StoreFacts:
    if not (home / "store").exists():
        return StoreFacts(str(home), there=False)
    try:
        store = RocksMetadataStore(home)
    except DirectoryInUseError:
        return StoreFacts(str(home), there=True, running=True)
    except LogstoreError as e:
        return StoreFacts(str(home), there=True, error=e.message)
    return await _read(str(home), store)


async def _read(where: str, store: MetadataStore) -> StoreFacts:
    """The cluster of the store, and its generations; closes it."""
    try:
        cluster, began = await text_table(store).get(CLUSTER_ID), await store.range(GENERATIONS)
    finally:
        await store.close()
    return StoreFacts(
        where,
        there=cluster is not None,
        cluster=cluster or "",
        began={i.key.removeprefix(GENERATIONS): i.revision for i in began.items},
        revision=began.revision,
    )
