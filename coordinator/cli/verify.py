"""`logstore verify`: compares the copies of a shard, or a log with a journal."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    CommandError,
    Coordinator,
    print_json,
    print_table,
    run,
)
from coordinator.local.checker import check_log
from coordinator.migration.difference import RangeDigest, first_difference
from coordinator.migration.nodes import ask_digests
from logstore.base.errors import InvalidArgumentError, UnavailableError
from logstore.meta.records import decode_shard
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.status import called
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub

CALL_TIMEOUT_S = 600.0


def register(app: typer.Typer) -> None:
    app.command("verify")(verify)


def verify(
    shard: Annotated[str | None, typer.Argument(metavar="SHARD", help="LOG/NUMBER")] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Recompute each copy's chain from its disk.")
    ] = False,
    journal: Annotated[
        list[Path] | None, typer.Option(help="Check the journal's log instead; repeat it.")
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Compare the hash chains of a shard's copies; or a log with a journal of acked appends.

    Exit status 1: they differ, or records are lost, duplicated, out of order or changed.

    Example: logstore verify --journal journal.jsonl
    """
    if (shard is None) == (not journal):
        raise InvalidArgumentError("give either SHARD or --journal")
    if journal:
        verdict = run(check_log(address, journal))
        print_json(verdict) if as_json else typer.echo(verdict.sentence())
        if not as_json:
            for example in verdict.examples:
                typer.echo(f"  {example}")
        raise typer.Exit(0 if verdict.ok else 1)
    assert shard is not None
    if "/" not in shard:
        raise InvalidArgumentError(f"SHARD is {shard!r}, expected LOG/NUMBER, as in {shard}/0")
    rows, differs = run(_compared(address, shard, deep))
    equal = len({row["chain"] for row in rows}) == 1
    if as_json:
        result = {"shard": shard, "deep": deep, "equal": equal, "copies": rows, "differs": differs}
        print_json(result)
    else:
        print_table(
            f"Copies of {shard}",
            ("instance", "replica id", "role", "base", "at offset", "chain"),
            [list(row.values()) for row in rows],
        )
    if not equal:
        raise CommandError(f"the copies of shard {shard} differ: {'; '.join(differs)}")


async def _compared(address: str, shard: str, deep: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """Each copy's chain at the offset that all of them have; where one differs from the first."""
    rows, addresses = await _copies(address, shard, deep)
    differs = []
    for row in rows[1:]:
        if row["chain"] != rows[0]["chain"]:
            asks = [partial(_digests, addresses[r["instance"]], shard, r) for r in (rows[0], row)]
            start = max(rows[0]["base"], row["base"])
            found = await first_difference(asks[0], asks[1], start, row["end"])
            differs.append(f"{row['instance']} from {rows[0]['instance']} at {found}")
    return rows, differs


async def _digests(
    address: str, shard: str, row: dict[str, Any], start: int, stop: int, ranges: int
) -> list[RangeDigest]:
    async with open_channel(address) as channel:
        stub = NodeAdminStub(channel)
        return await ask_digests(stub, row["replica_id"], shard, start, stop, ranges)


async def _copies(
    address: str, shard: str, deep: bool
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Each copy's chain at the offset that all of them have; the instances' addresses."""
    log = shard.rpartition("/")[0]
    async with Coordinator(address) as coordinator:
        info = await coordinator.call("Catalog", "DescribeLog", pb.DescribeLogRequest(name=log))
        known = await coordinator.instances()
    records = [decode_shard(item) for item in info.shards_json]
    record = next((r for r in records if r.shard == shard), None)
    if record is None:
        raise InvalidArgumentError(f"log {log!r} has no shard {shard!r}")
    addresses = {row.instance: row.address for row in known}
    members = record.members()
    statuses = [await _status(addresses[m.instance], shard, m.replica_id) for m in members]
    stop = min(status.end for status in statuses)
    rows = []
    for member, status in zip(members, statuses, strict=True):
        request = node_pb2.VerifyChainRequest(
            shard=shard, replica_id=member.replica_id, stop_offset=stop, recompute=deep
        )
        async with open_channel(addresses[member.instance]) as channel, called():
            found = await NodeAdminStub(channel).VerifyChain(request, timeout=CALL_TIMEOUT_S)
        rows.append(
            {
                "instance": member.instance,
                "replica_id": member.replica_id,
                "role": status.role,
                "base": found.base,
                "end": found.end,
                "chain": found.chain.hex(),
            }
        )
    return rows, addresses


async def _status(address: str, shard: str, replica_id: int) -> node_pb2.ReplicaStatus:
    async with open_channel(address) as channel, called():
        answer = await NodeAdminStub(channel).Status(
            node_pb2.StatusRequest(shard=shard), timeout=CALL_TIMEOUT_S
        )
    for status in answer.replicas:
        if status.replica_id == replica_id:
            return status
    raise UnavailableError(f"{answer.instance} has not opened copy {replica_id} of shard {shard}")
