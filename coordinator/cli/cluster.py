"""`logstore instances` and `stats`."""

from typing import Annotated, Any

import msgspec
import typer

from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    Coordinator,
    print_json,
    print_table,
    run,
)
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb


def register(app: typer.Typer) -> None:
    app.command("instances")(instances)
    app.command("stats")(stats)


def instances(address: Address = ADDRESS, as_json: AsJson = False) -> None:
    """List instances: address, capacity, load, whether they are alive.

    Example: logstore instances
    """

    async def work() -> list[dict[str, Any]]:
        async with Coordinator(address) as coordinator:
            answer = await coordinator.call("Catalog", "ListInstances", pb.ListInstancesRequest())
            return [msgspec.json.decode(item) for item in answer.instances_json]

    found = run(work())
    if as_json:
        print_json(found)
        return
    print_table(
        "Instances",
        ("instance", "address", "alive", "load", "ops/s max", "bytes/s max", "tier", "zone"),
        [
            (
                i["instance"],
                i["address"],
                i["alive"],
                i["load"],
                i["capacity"]["ops_per_s"],
                i["capacity"]["bytes_per_s"],
                i["tier"],
                i["zone"],
            )
            for i in found
        ],
    )


def stats(
    name: Annotated[str | None, typer.Argument(metavar="LOG", help="Default: all logs.")] = None,
    history: Annotated[
        bool, typer.Option("--history", help="All kept slots, not only the last of each shard.")
    ] = False,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show what shards and instances carried in the last slots.

    Example: logstore stats orders
    """

    async def work() -> Any:
        async with Coordinator(address) as coordinator:
            return await coordinator.json("Statistics", "Stats", pb.StatsRequest(log=name or ""))

    found = run(work())
    if not history:
        found["shards"] = {shard: told[-1:] for shard, told in found["shards"].items()}
    if as_json:
        print_json(found)
        return
    told = [s for slots in found["shards"].values() for s in slots]
    print_table(
        f"Shards, slots of {found['slot_s']:g} s",
        ("shard", "instance", "slot", "queries", "queries/s", "bytes in", "bytes out", "mean ms",
         "p99 ms"),
        [
            (s["shard"], s["instance"], s["slot"], s["query_count"], s["queries_per_s"],
             s["bytes_in"], s["bytes_out"], s["mean_ms"], s["p99_ms"])
            for s in told
        ],
    )  # fmt: skip
    print_table(
        "Instances now",
        ("instance", "alive", "load", "ops/s", "bytes/s", "CPU cores", "stored bytes", "memory",
         "throttled"),
        [
            (i["instance"], i["alive"], i["load"], i["ops_per_s"], i["bytes_per_s"],
             i["cpu_share"], i["stored_bytes"], i["memory_bytes"], i.get("throttled"))
            for i in found["instances"].values()
        ],
    )  # fmt: skip
