"""`logstore correlation`: which shards of a log are used together."""

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from coordinator.answers.base import decode
from coordinator.answers.statistics import LogCorrelations
from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    Coordinator,
    check_writable,
    print_json,
    print_table,
    run,
)
from logstore.base.errors import InvalidArgumentError
from logstore.proto.coordinator_v1 import accesses_pb2
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb

PAIRS_SHOWN = 20


def register(app: typer.Typer) -> None:
    app.command("correlation")(correlation)


def correlation(
    name: Annotated[str, typer.Argument(metavar="LOG", help="Name of the log.")],
    png: Annotated[Path | None, typer.Option(help="Write a heatmap to this file.")] = None,
    arrow: Annotated[
        Path | None, typer.Option(help="Write the matrix to this Arrow IPC file.")
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show which shards are used together: 1 always, 0 as often as chance has it.

    Learned from the accesses that the instances sample, in bins of 0.1 s over about ten minutes;
    what all shards of the log do together is taken off.

    Example: logstore correlation orders --png pairs.png
    """
    for option, path in (("--png", png), ("--arrow", arrow)):
        if path is not None:
            check_writable(option, path)

    async def work() -> pb.JsonResponse:
        async with Coordinator(address) as coordinator:
            request = accesses_pb2.CorrelationRequest(log=name, png=png is not None)
            answer: pb.JsonResponse = await coordinator.call("Accesses", "Correlation", request)
            return answer

    answer = run(work())
    found = decode(answer.json, LogCorrelations)
    if png is not None:
        png.write_bytes(answer.png)
    if arrow is not None:
        _write_arrow(arrow, found)
    if as_json:
        print_json(found)
        return
    typer.echo(f"{name}: {len(found.shards)} shards, {found.bins} bins of accesses learned")
    if not found.pairs:
        typer.echo("no two shards are used together, as far as is known")
        return
    shown = found.pairs[:PAIRS_SHOWN]
    print_table(
        "Used together",
        ("shard", "with", "correlation", "at", "and"),
        [(p.shard, p.other, p.correlation, p.instance, p.other_instance) for p in shown],
    )


def _write_arrow(path: Path, found: LogCorrelations) -> None:
    """One column for each shard, and one that names the row's."""
    columns = {"shard": found.shards}
    rows = zip(*found.matrix, strict=True) if found.matrix else iter(())
    table = pa.table(columns | {n: list(r) for n, r in zip(found.shards, rows, strict=True)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    try:
        path.write_bytes(sink.getvalue())
    except OSError as e:
        raise InvalidArgumentError(f"--arrow {path}: {e.strerror}") from None
