"""From records to routes; the coordinator and every instance use this."""

from collections.abc import Iterable, Mapping

from logstore.base.errors import UnknownLogError
from logstore.base.types import ShardStatus
from logstore.meta.port import MetadataStore
from logstore.meta.records import LogRecord, ShardRecord, encode
from logstore.meta.tables import instance_table, log_table, shard_table
from logstore.proto.v1 import common_pb2
from sharder.keys import KeyRange


def range_message(keys: KeyRange) -> common_pb2.KeyRange:
    return common_pb2.KeyRange(start=keys.start, end=keys.end)


def shard_route(record: ShardRecord, addresses: Mapping[str, str]) -> common_pb2.ShardRoute:
    """One shard; replicas whose instance has no known address are left out."""
    return common_pb2.ShardRoute(
        shard=record.shard,
        range=range_message(record.range),
        status=record.status.value,
        epoch=record.epoch,
        primary=record.primary.instance,
        addresses={
            m.instance: addresses[m.instance] for m in record.in_sync if m.instance in addresses
        },
        shares=record.route,
        predecessors=record.predecessors,
        successors=record.successors,
        sealed_end=record.sealed_end if record.status is ShardStatus.SEALED else None,
        spread_reads=record.migration is None and len(record.in_sync) > 1,
    )


def log_routes(
    log: LogRecord,
    shards: Iterable[ShardRecord],
    addresses: Mapping[str, str],
    map_version: int,
) -> common_pb2.LogRoutes:
    """The whole log in key order. `addresses`: instance id -> `host:port`.

    `map_version` is the newest metadata revision among its records.
    """
    ordered = sorted(shards, key=lambda record: (record.range.start, record.shard))
    return common_pb2.LogRoutes(
        log=log.name,
        map_version=map_version,
        partitioner=log.options.partitioner.value,
        shards=[shard_route(record, addresses) for record in ordered],
        options_json=encode(log.options),
        created_us=log.created_us,
    )


async def read_routes(store: MetadataStore, log: str) -> common_pb2.LogRoutes:
    """Read a log's routes linearizably; `UnknownLogError` when there is no such log."""
    found = await log_table(store).entry(log)
    if found is None:
        raise UnknownLogError(f"log {log!r} does not exist")
    shards = await shard_table(store).entries(f"{log}/")
    instances = await instance_table(store).entries()
    records = [entry.record for entry in instances]
    versions = [*(entry.revision for entry in shards), *(entry.revision for entry in instances)]
    return log_routes(
        found.record,
        (entry.record for entry in shards),
        {record.instance: record.address for record in records},
        max([found.revision, *versions]),
    )
