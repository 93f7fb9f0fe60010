"""`logstore stats`: the present load of shards and instances, and the slots before."""

from collections.abc import Iterator
from typing import Annotated

import typer
from msgspec.structs import replace

from coordinator.answers.statistics import InstanceNow, LoadNow, ShardNow, ShardSlot, Stats
from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    ask_coordinator,
    load_text,
    print_json,
    print_table,
)
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb


def register(app: typer.Typer) -> None:
    app.command("stats")(stats)


def stats(
    name: Annotated[str | None, typer.Argument(metavar="LOG", help="Default: all logs.")] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Also all kept slots of each copy.")
    ] = False,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show the load of the last minute, by shard, copy and instance.

    An instance's load is the largest used share of its capacities, with the resource that it is of;
    a capacity with ~ is estimated from what the instance does and uses.

    Offered operations are those that came: admitted ones were served, refused ones were over the
    instance's capacity. Retried ones had been refused before, and are no new load. Replicated are
    the records that a follower writes for its primary.

    Example: logstore stats orders
    """

    request = pb.StatsRequest(log=name or "")
    found = ask_coordinator(address, "Stats", request, Stats, "Statistics")
    if not history:
        last = {shard: _last_of_copies(rows) for shard, rows in found.shards.items()}
        found = replace(found, shards=last)
    if as_json:
        print_json(found)
        return
    print_table(
        "Shards, last minute, per second",
        ("shard", "instance", "role", "offered", "admitted", "refused", "retried", "replicated",
         "bytes in", "bytes out", "stored bytes", "cores", "mean ms", "p99 ms", "weight"),
        [row for shard in found.loads.values() for row in _rows(shard)],
    )  # fmt: skip
    if history:
        _print_slots(found)
    print_table(
        "Instances now",
        ("instance", "alive", "load", "ops/s", "capacity ops/s", "bytes/s", "CPU cores",
         "stored bytes", "memory", "throttled"),
        [
            (i.instance, i.alive, load_text(i.load, i.bound_by), i.ops_per_s, _capacity(i),
             i.bytes_per_s, i.cpu_share, i.stored_bytes, i.memory_bytes, i.throttled)
            for i in found.instances.values()
        ],
    )  # fmt: skip


def _capacity(instance: InstanceNow) -> str:
    """As stated, or as estimated."""
    limit = instance.capacity.ops_per_s
    if limit is None:
        return ""
    return f"~{limit:,.0f}" if "ops_per_s" in instance.estimated else f"{limit:,.0f}"


def _last_of_copies(rows: tuple[ShardSlot, ...]) -> tuple[ShardSlot, ...]:
    """The newest slot of each instance that reported the shard, of the newest slots only."""
    newest: dict[str, ShardSlot] = {}
    for row in rows:
        newest[row.instance] = row
    last = max((row.slot for row in newest.values()), default=0)
    return tuple(row for row in newest.values() if row.slot >= last - 1)


def _rows(shard: ShardNow) -> Iterator[tuple[object, ...]]:
    """The shard's copies; before them their sum, where there are several."""
    if len(shard.copies) > 1:
        yield shard.shard, f"all {len(shard.copies)}", "", *_cells(shard), shard.migration_weight
    for copy in shard.copies:
        yield shard.shard, copy.instance, copy.role, *_cells(copy), shard.migration_weight


def _cells(load: LoadNow) -> tuple[object, ...]:
    return (
        round(load.offered_per_s, 1), round(load.admitted_per_s, 1), round(load.refused_per_s, 1),
        round(load.retried_per_s, 1), round(load.replicated_per_s, 1), round(load.bytes_in_per_s),
        round(load.bytes_out_per_s), load.stored_bytes, round(load.cpu, 4),
        load.mean_ms, load.p99_ms,
    )  # fmt: skip


def _print_slots(found: Stats) -> None:
    print_table(
        f"Slots of {found.slot_s:g} s",
        ("shard", "instance", "slot", "queries", "queries/s", "refused", "retried", "bytes in",
         "bytes out", "mean ms", "p99 ms"),
        [
            (s.shard, s.instance, s.slot, s.query_count, s.queries_per_s, s.refused_count,
             s.retried_count, s.bytes_in, s.bytes_out, s.mean_ms, s.p99_ms)
            for rows in found.shards.values()
            for s in rows
        ],
    )  # fmt: skip
