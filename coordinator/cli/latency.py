"""`logstore instances latency`: round trips between the instances, as they measure them."""

import typer

from coordinator.answers.statistics import Stats
from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    ask_coordinator,
    print_json,
    print_table,
)
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb


def register(group: typer.Typer) -> None:
    group.command("latency")(latency)


def latency(address: Address = ADDRESS, as_json: AsJson = False) -> None:
    """Show the round trips between each two instances, in microseconds.

    Of the last 256 pings, one a second. The planner keeps the copies of a shard near each other.

    Example: logstore instances latency
    """
    found = ask_coordinator(address, "Stats", pb.StatsRequest(), Stats, "Statistics")
    pairs = [
        (name, peer, *percentiles)
        for name, now in sorted(found.instances.items())
        for peer, percentiles in sorted(now.round_trips_us.items())
    ]
    if as_json:
        names = ("source", "peer", "p50_us", "p90_us", "p99_us")
        print_json([dict(zip(names, pair, strict=True)) for pair in pairs])
        return
    print_table(
        "Round trips in microseconds",
        ("from", "to", "p50", "p90", "p99"),
        [(name, peer, round(p50), round(p90), round(p99)) for name, peer, p50, p90, p99 in pairs],
    )
