"""Generations of a metadata store: does it hold what an instance acted on? (design note 0008)

A store's history is divided into generations, one for each time that a coordinator begins with it.
A generation's key has a drawn name, and the revision that wrote the key is its beginning. So a
point of history, (generation, revision), distinguishes a store from every other one and from its
own older copies, whatever their revisions are.
"""

from dataclasses import dataclass

import structlog

from logstore.base.env import Env
from logstore.base.errors import WrongClusterError
from logstore.meta.port import Compare, Delete, MetadataStore, Operation, Put
from logstore.meta.records import (
    CLUSTER_ID,
    GENERATION,
    GENERATIONS,
    GenerationRecord,
    encode,
    generation_key,
)

_FORGOTTEN_MAX = 64
"""Generations that one transaction deletes at most."""
GENERATIONS_MAX = 1_000
"""Generations that a store keeps; an instance that acted on none of them accepts the store by
hand."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Point:
    """A point in a store's history. `generation` is empty before the first one."""

    generation: str = ""
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Lineage:
    """A store's identity: its cluster, where its generations began, and how far it is now."""

    cluster: str
    began: dict[str, int]
    """Generation -> its first revision."""
    revision: int
    newest: str

    def holds(self, point: Point) -> bool:
        """True when this store's history contains the point."""
        if not point.generation:
            return True
        first = self.began.get(point.generation)
        if first is None or point.revision > self.revision:
            return False
        later = [revision for revision in self.began.values() if revision > first]
        return not later or point.revision < min(later)

    def fences(self) -> tuple[Compare, Compare]:
        """Compares that hold in this store while its newest generation is the one seen here, and in
        no other store."""
        first = self.began[self.newest]
        return Compare(generation_key(self.newest), first), Compare(GENERATION, first)


async def read_lineage(store: MetadataStore) -> Lineage | None:
    """The store's lineage, read at one revision; None when no coordinator has begun with it."""
    result = await store.range(GENERATIONS)
    cluster = await store.get(CLUSTER_ID)
    if not result.items or cluster is None:
        return None
    began = {item.key.removeprefix(GENERATIONS): item.revision for item in result.items}
    newest = max(began, key=lambda generation: began[generation])
    return Lineage(cluster.value.decode(), began, result.revision, newest)


async def open_generation(
    store: MetadataStore, env: Env, by: str, cause: str = "opened"
) -> Lineage:
    """Begin a generation of the store; returns its lineage.

    A store without any key is a new cluster (`created`); one with keys and no generation is of
    before generations were (`adopted`).
    """
    while True:
        known = sorted((await store.range(GENERATIONS)).items, key=lambda item: item.revision)
        cluster, newest = await store.get(CLUSTER_ID), await store.get(GENERATION)
        if not known:
            cause = "adopted" if (await store.range("/")).items else "created"
        record = GenerationRecord(f"{env.new_id():016x}", cause, by, env.clock.wall_us())
        operations: list[Operation] = [
            Put(generation_key(record.id), encode(record)),
            Put(GENERATION, record.id.encode()),
        ]
        if cluster is None:
            operations.append(Put(CLUSTER_ID, f"{env.new_id():016x}".encode()))
        forgotten = known[: min(max(0, len(known) + 1 - GENERATIONS_MAX), _FORGOTTEN_MAX)]
        operations += [Delete(item.key) for item in forgotten]
        compares = [
            Compare(generation_key(record.id), 0),
            *(Compare(item.key, item.revision) for item in forgotten),
            Compare(GENERATION, newest.revision if newest is not None else 0),
            Compare(CLUSTER_ID, cluster.revision if cluster is not None else 0),
        ]
        if (await store.txn(compares, operations)).succeeded:
            say = _log.info if cause == "opened" else _log.warning
            say("metadata generation begins", generation=record.id, cause=cause)
            lineage = await read_lineage(store)
            assert lineage is not None
            return lineage


async def ensure_generation(store: MetadataStore, env: Env, by: str) -> Lineage:
    """The store's lineage; begins its first generation when there is none."""
    return await read_lineage(store) or await open_generation(store, env, by)


async def check_expected(store: MetadataStore, cluster: str | None) -> None:
    """`WrongClusterError` when the store is not of the expected cluster (None: any)."""
    if cluster is None:
        return
    found = await store.get(CLUSTER_ID)
    if found is None or found.value.decode() != cluster:
        held = "empty" if found is None else f"of cluster {found.value.decode()}"
        raise WrongClusterError(
            f"the metadata is {held}, cluster {cluster} is expected: put its metadata back, or "
            "rebuild it with `logstore recover`"
        )


def check_holds(lineage: Lineage, point: Point, cluster: str, who: str) -> None:
    """`WrongClusterError` unless the store is `who`'s own, and holds what `who` acted on."""
    if cluster and cluster != lineage.cluster:
        raise WrongClusterError(
            f"{who} belongs to cluster {cluster}, the metadata is of cluster {lineage.cluster}: "
            "give it its own metadata back, or rebuild that with `logstore recover`"
        )
    if not lineage.holds(point):
        raise WrongClusterError(
            f"{who} acted on revision {point.revision} of generation {point.generation}, which the "
            f"metadata of cluster {lineage.cluster} does not hold (it is at revision "
            f"{lineage.revision}): it is an older copy; put the newest one back, or rebuild it "
            "with `logstore recover`"
        )
