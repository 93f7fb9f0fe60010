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
from logstore.meta.port import Compare, MetadataStore, Operation
from logstore.meta.records import (
    CLUSTER_ID,
    GENERATION,
    GENERATIONS,
    GenerationRecord,
    generation_key,
)
from logstore.meta.table import Decided, transact
from logstore.meta.tables import generation_table, text_table

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
    cluster = await text_table(store).get(CLUSTER_ID)
    if not result.items or cluster is None:
        return None
    began = {item.key.removeprefix(GENERATIONS): item.revision for item in result.items}
    newest = max(began, key=lambda generation: began[generation])
    return Lineage(cluster, began, result.revision, newest)


async def open_generation(
    store: MetadataStore, env: Env, by: str, cause: str = "opened"
) -> Lineage:
    """Begin a generation of the store; returns its lineage.

    A store without any key is a new cluster (`created`); one with keys and no generation is of
    before generations were (`adopted`).
    """
    texts, generations = text_table(store), generation_table(store)

    async def decide() -> Decided[GenerationRecord]:
        nonlocal cause
        known = sorted(await generations.entries(), key=lambda entry: entry.revision)
        cluster, newest = await texts.entry(CLUSTER_ID), await texts.entry(GENERATION)
        if not known:
            cause = "adopted" if (await store.range("/")).items else "created"
        record = GenerationRecord(f"{env.new_id():016x}", cause, by, env.clock.wall_us())
        operations: list[Operation] = [
            generations.put(record.id, record),
            texts.put(GENERATION, record.id),
        ]
        if cluster is None:
            operations.append(texts.put(CLUSTER_ID, f"{env.new_id():016x}"))
        forgotten = known[: min(max(0, len(known) + 1 - GENERATIONS_MAX), _FORGOTTEN_MAX)]
        operations += [generations.removal(entry.name) for entry in forgotten]
        compares = [
            generations.unchanged(record.id, None),
            *(entry.unchanged for entry in forgotten),
            texts.unchanged(GENERATION, newest),
            texts.unchanged(CLUSTER_ID, cluster),
        ]
        return Decided(record, compares, operations)

    record = await transact(store, "the generation", decide)
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
    found = await text_table(store).get(CLUSTER_ID)
    if found != cluster:
        held = "empty" if found is None else f"of cluster {found}"
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
