"""The cells of a cluster as they are now, from the metadata alone."""

from collections import Counter

from coordinator.answers.catalog import CellRow
from coordinator.cells.assignment import LOG_WIDE, cell_names, cell_of, cell_of_all
from coordinator.migration.ledger import migration_table
from coordinator.migration.reshape_driver import reshape_table
from logstore.meta.port import MetadataStore
from logstore.meta.records import cell_leader_key
from logstore.meta.tables import leader_table, shard_table


async def list_cells(store: MetadataStore, count: int) -> list[CellRow]:
    """A row for each of `count` cells, in their order."""
    leaders = leader_table(store)
    shards = Counter(cell_of(s.shard, count) for s in await shard_table(store).all())
    migrations = [m for m in await migration_table(store).all() if m.active]
    moves = Counter(cell_of(m.shard, count) for m in migrations)
    reshapes = [r for r in await reshape_table(store).all() if r.active]
    splits = Counter(cell_of_all(r.parents, count) for r in reshapes)
    rows = []
    for cell in cell_names(count):
        leader = await leaders.get(cell_leader_key(cell))
        rows.append(
            CellRow(
                cell=cell,
                leader=leader.address if leader is not None else None,
                shards=shards[cell],
                migrations=moves[cell],
                reshapes=splits[cell],
                log_wide=cell == LOG_WIDE,
            )
        )
    return rows
