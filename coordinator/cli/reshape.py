"""`logstore split`, `merge`, `reshapes`."""

from typing import Annotated

import typer

from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    ask_coordinator,
    print_json,
    print_table,
    text,
)
from coordinator.cli.keys import from_base64, from_hex, one_of, raw
from coordinator.migration.answers import Reshape
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb

Shard = Annotated[str, typer.Argument(metavar="SHARD", help="LOG/NUMBER")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and report; do nothing.")]


def register(app: typer.Typer) -> None:
    app.command("split")(split)
    app.command("merge")(merge)
    app.command("reshapes")(reshapes)


def split(
    shard: Shard,
    at: Annotated[
        bytes | None,
        typer.Option(parser=raw, metavar="KEY", help="The first key of the upper part."),
    ] = None,
    at_hex: Annotated[
        bytes | None, typer.Option(parser=from_hex, metavar="HEX", help="--at as 00ff.")
    ] = None,
    at_base64: Annotated[
        bytes | None, typer.Option(parser=from_base64, metavar="BASE64", help="--at as AP8=.")
    ] = None,
    learned: Annotated[
        bool, typer.Option("--learned", help="At the key that halves the learned load (default).")
    ] = False,
    dry_run: DryRun = False,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Split a shard in two while it serves; both stay on its instances.

    Example: logstore split orders/0 --at user-5000
    """
    at = one_of("at", at, at_hex, at_base64)
    request = pb.ReshapeRequest(parents=[shard], dry_run=dry_run)
    if at is not None:
        request.key = at
    _show(_ask(address, request), as_json)


def merge(
    shard: Shard,
    other: Annotated[str, typer.Argument(metavar="SHARD", help="Its neighbour.")],
    dry_run: DryRun = False,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Merge two neighbouring shards of the same instances while they serve.

    Example: logstore merge orders/1 orders/2
    """
    request = pb.ReshapeRequest(parents=[shard, other], dry_run=dry_run)
    _show(_ask(address, request), as_json)


def reshapes(
    reshape: Annotated[str | None, typer.Argument(metavar="ID", help="Default: all.")] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """List splits and merges, or show one.

    Example: logstore reshapes
    """

    request = pb.ListReshapesRequest(reshape=reshape or "")
    if reshape:
        one = ask_coordinator(address, "ListReshapes", request, Reshape, "Migrations")
        rows = [one]
    else:
        rows = ask_coordinator(address, "ListReshapes", request, list[Reshape], "Migrations")
    if as_json:
        print_json(rows[0] if reshape else rows)
        return
    print_table(
        "Splits and merges",
        ("id", "kind", "parents", "at", "state", "successors", "stall ms", "took s", "cause"),
        [
            (r.id, r.kind, r.parents, _key(r), r.state, r.successors,
             [f"{ms:.1f}" for ms in r.stall_ms.values()], r.duration_s, r.cause)
            for r in rows
        ],
    )  # fmt: skip


def _ask(address: str, request: pb.ReshapeRequest) -> Reshape:
    return ask_coordinator(address, "Reshape", request, Reshape, "Migrations")


def _show(found: Reshape, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    where = f" at {_key(found)}" if found.at is not None else ""
    parents = " and ".join(found.parents)
    if found.dry_run:
        typer.echo(
            f"dry run: {found.kind} {parents}{where}; appends are held until the successors "
            f"stand (about 0.1 s), none fails; undo with {_undo(found)}; nothing is done"
        )
        return
    stalls = ", ".join(f"{ms:.1f} ms" for ms in found.stall_ms.values()) or "unknown"
    typer.echo(
        f"{found.kind} {found.id}: {parents}{where} became "
        f"{' and '.join(found.successors)} in {found.duration_s:.3f} s; "
        f"appends were held {stalls}"
    )


def _undo(found: Reshape) -> str:
    return "merge" if found.kind == "split" else "split"


def _key(found: Reshape) -> str:
    return "" if found.at is None else text(found.at)
