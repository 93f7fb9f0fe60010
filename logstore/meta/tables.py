"""The tables of the metadata store; those of moves and announcements are the coordinator's."""

from logstore.meta.port import MetadataStore
from logstore.meta.records import (
    CHANGEFEEDS,
    COORDINATORS,
    DRAINS,
    GENERATIONS,
    INSTANCES,
    LOGS,
    PLANNER,
    PROCESSES,
    SHARDS,
    TOMBSTONES,
    WEIGHTS,
    ChangefeedCursor,
    DrainRecord,
    GenerationRecord,
    InstanceRecord,
    LeaderRecord,
    LogRecord,
    PlannerRecord,
    ProcessRecord,
    ShardRecord,
    Tombstone,
    WeightRecord,
    decode_cursor,
    decode_drain,
    decode_generation,
    decode_instance,
    decode_leader,
    decode_log,
    decode_planner,
    decode_process,
    decode_shard,
    decode_tombstone,
    decode_weight,
)
from logstore.meta.table import ReadTable, Table


def log_table(store: MetadataStore) -> Table[LogRecord]:
    """By log."""
    return Table(store, LOGS, decode_log)


def shard_table(store: MetadataStore) -> ReadTable[ShardRecord]:
    """By shard; `shard_writes` writes them."""
    return ReadTable(store, SHARDS, decode_shard)


def instance_table(store: MetadataStore) -> Table[InstanceRecord]:
    """By instance."""
    return Table(store, INSTANCES, decode_instance)


def process_table(store: MetadataStore) -> Table[ProcessRecord]:
    """By instance; each under its process's lease."""
    return Table(store, PROCESSES, decode_process)


def drain_table(store: MetadataStore) -> Table[DrainRecord]:
    """By instance."""
    return Table(store, DRAINS, decode_drain)


def tombstone_table(store: MetadataStore) -> Table[Tombstone]:
    """By `INSTANCE/REPLICA_ID`."""
    return Table(store, TOMBSTONES, decode_tombstone)


def changefeed_table(store: MetadataStore) -> Table[ChangefeedCursor]:
    """By shard."""
    return Table(store, CHANGEFEEDS, decode_cursor)


def generation_table(store: MetadataStore) -> Table[GenerationRecord]:
    """By generation."""
    return Table(store, GENERATIONS, decode_generation)


def planner_table(store: MetadataStore) -> Table[PlannerRecord]:
    """Of one record, `settings`: changes of several settings that fit together are one write."""
    return Table(store, PLANNER, decode_planner)


def weight_table(store: MetadataStore) -> Table[WeightRecord]:
    """By shard."""
    return Table(store, WEIGHTS, decode_weight)


def coordinator_table(store: MetadataStore) -> ReadTable[LeaderRecord]:
    """The coordinators that live, by address; elections write them."""
    return ReadTable(store, COORDINATORS, decode_leader)


def leader_table(store: MetadataStore) -> ReadTable[LeaderRecord]:
    """The leaders, by election key."""
    return ReadTable(store, "", decode_leader)


def number_table(store: MetadataStore) -> Table[int]:
    """Numbers under keys of their own, by key: counters and settings."""
    return Table(store, "", int, lambda number: b"%d" % number)


def text_table(store: MetadataStore) -> Table[str]:
    """Texts under keys of their own, by key: ids and settings."""
    return Table(store, "", bytes.decode, str.encode)
