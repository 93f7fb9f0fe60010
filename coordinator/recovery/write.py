"""A plan becomes a metadata store: an embedded one that is built aside, or an etcd's namespace."""

import base64
import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from coordinator.recovery.plan import RecoveryPlan
from logstore.base.env import Env
from logstore.base.errors import ConflictError, RefusedError
from logstore.meta.port import TXN_OPERATIONS_MAX, Compare, Delete, MetadataStore, Put, Versioned
from logstore.meta.records import (
    CLUSTER_ID,
    GENERATION,
    REPLICA_COUNTER,
    GenerationRecord,
    encode,
    generation_key,
    instance_key,
    log_key,
)
from logstore.meta.rocks import RocksMetadataStore, hold
from logstore.meta.shard_writes import compares_of, in_chunks, new_shard, operations_of

RECOVERING = ".recovering"
BEFORE = ".before-recover-"


@dataclass(frozen=True, slots=True)
class RecoveredGeneration:
    """The generation that the recovered store begins with, and the revision that wrote it."""

    generation: str
    revision: int
    aside: str = ""
    """Where the earlier content is now; empty: there was none."""


async def write_plan(store: MetadataStore, plan: RecoveryPlan, env: Env) -> RecoveredGeneration:
    """Write the records into an empty store. Its identity comes last: until then no instance
    accepts it, and an interrupted recovery begins again. `ConflictError` when another process
    wrote."""
    for chunk in in_chunks([new_shard(record) for record in plan.shards]):
        await _put(store, compares_of(chunk), operations_of(chunk))
    puts = [Put(instance_key(i.instance), encode(i)) for i in plan.instances]
    puts.append(Put(REPLICA_COUNTER, str(plan.next_replica_id).encode()))
    puts += [Put(log_key(log.name), encode(log)) for log in plan.logs]
    for at in range(0, len(puts), TXN_OPERATIONS_MAX):
        part = puts[at : at + TXN_OPERATIONS_MAX]
        await _put(store, [Compare(put.key, 0) for put in part], part)
    record = GenerationRecord(
        f"{env.new_id():016x}", "recovered", "logstore recover", env.clock.wall_us()
    )
    last = [
        Put(generation_key(record.id), encode(record)),
        Put(GENERATION, record.id.encode()),
        Put(CLUSTER_ID, plan.cluster.encode()),
    ]
    revision = await _put(store, [Compare(put.key, 0) for put in last], last)
    return RecoveredGeneration(record.id, revision)


async def _put(
    store: MetadataStore, compares: Sequence[Compare], operations: Sequence[Put | Delete]
) -> int:
    result = await store.txn(compares, operations)
    if not result.succeeded:
        raise ConflictError("another process wrote to the new metadata: stop every "
                            "coordinator and instance, and recover again")  # fmt: skip
    return result.revision


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keep coordinators off the folder. `DirectoryInUseError` while one has it."""
    if not directory.exists():
        yield
        return
    with hold(directory):
        yield


async def write_embedded(directory: Path, plan: RecoveryPlan, env: Env) -> RecoveredGeneration:
    """The store of a coordinator's folder. It is built beside it and takes its place in one step;
    the earlier folder is moved aside, never deleted."""
    part = directory.with_name(directory.name + RECOVERING)
    _remove(part)
    with held(directory):
        store = RocksMetadataStore(part, env=env, begin_after=plan.revision)
        try:
            written = await write_plan(store, plan, env)
        finally:
            await store.close()
        aside = _swap(part, directory)
    return RecoveredGeneration(written.generation, written.revision, aside)


async def write_etcd(
    store: MetadataStore, plan: RecoveryPlan, env: Env, replace_into: Path | None
) -> RecoveredGeneration:
    """Write into an empty namespace. Existing keys are refused, or, with `replace_into`, first
    written to that JSON file and then removed."""
    aside = ""
    items = (await store.range("/")).items
    if items and replace_into is None:
        raise RefusedError(
            f"the metadata there is not empty ({len(items)} keys): is it the one that the cluster "
            "lost? With --replace it is written to a file first, and then taken out"
        )
    if items and replace_into is not None:
        export(items, replace_into)
        aside = str(replace_into)
        for at in range(0, len(items), TXN_OPERATIONS_MAX):
            part = items[at : at + TXN_OPERATIONS_MAX]
            compares = [Compare(item.key, item.revision) for item in part]
            await _put(store, compares, [Delete(item.key) for item in part])
    written = await write_plan(store, plan, env)
    return RecoveredGeneration(written.generation, written.revision, aside)


def export(items: Sequence[Versioned], path: Path) -> None:
    """Every key with its value (base64) and revision, as JSON; an existing file is refused."""
    rows = [{"key": i.key, "value_base64": base64.b64encode(i.value).decode(),
             "revision": i.revision} for i in items]  # fmt: skip
    try:
        with path.open("xb") as handle:
            handle.write(msgspec.json.format(msgspec.json.encode(rows)))
    except FileExistsError:
        raise RefusedError(f"{path} exists already, it is not overwritten") from None


def _swap(part: Path, directory: Path) -> str:
    """Put `part` in the place of `directory`; returns where that is now."""
    aside = ""
    if directory.exists():
        aside = str(directory.rename(_free_name(directory)))
    part.rename(directory)
    return aside


def _free_name(directory: Path) -> Path:
    number = 1
    while (found := directory.with_name(f"{directory.name}{BEFORE}{number}")).exists():
        number += 1
    return found


def _remove(part: Path) -> None:
    """The remains of an interrupted recovery, which no process ever used."""
    if part.exists():
        shutil.rmtree(part)
