"""`logstore copies`: every copy on every disk, and orders for those that no shard names."""

from typing import Annotated

import typer
from msgspec import UNSET

from coordinator.answers.catalog import CopyRow, RestoredLog
from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    DefaultToList,
    ask_coordinator,
    fields_of,
    print_json,
    print_table,
    time_text,
)
from logstore.base.errors import InvalidArgumentError
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb

group = typer.Typer(cls=DefaultToList, help="List copies; discard or adopt those without a shard.")

Instance = Annotated[str, typer.Argument(metavar="INSTANCE", help="Where the copy is.")]
ReplicaId = Annotated[int, typer.Argument(metavar="REPLICA_ID", min=1, help="Which one.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and report; change nothing.")]


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="copies", rich_help_panel=None)


@group.command("list")
def list_copies(
    instance: Annotated[
        str | None, typer.Argument(metavar="INSTANCE", help="Default: all instances.")
    ] = None,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Only those that no shard names.")
    ] = False,
    retired: Annotated[
        bool, typer.Option("--retired", help="Only those that left and are kept for a while.")
    ] = False,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """List copies: member, orphan, retired, missing, or unknown if the instance does not answer.

    Example: logstore copies list --orphans
    """
    request = pb.ListCopiesRequest(instance=instance or "")
    rows = ask_coordinator(address, "ListCopies", request, list[CopyRow])
    wanted = {name for name, given in (("orphan", orphans), ("retired", retired)) if given}
    rows = [row for row in rows if not wanted or row.state in wanted]
    if as_json:
        print_json(rows)
        return
    print_table(
        "Copies",
        ("instance", "replica id", "shard", "state", "base", "end", "bytes", "cause", "until"),
        [
            (
                row.instance,
                row.replica_id,
                row.shard,
                row.state,
                *(None if n is UNSET else n for n in (row.base, row.end, row.size_bytes)),
                row.cause,
                time_text(row.keep_until_us or None),
            )
            for row in rows
        ],
    )


@group.command("discard")
def discard(
    instance: Instance,
    replica_id: ReplicaId,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Delete an orphan or a retired copy for good.

    Example: logstore copies discard instance-2 17 --yes
    """

    def call(*, dry: bool) -> CopyRow:
        request = pb.CopyRequest(instance=instance, replica_id=replica_id, dry_run=dry)
        return ask_coordinator(address, "DiscardCopy", request, CopyRow)

    if dry_run or not (yes or as_json):
        row = call(dry=True)
        if as_json:
            print_json({**fields_of(row), "dry_run": True})
        else:
            typer.echo(
                f"copy {replica_id} of {row.shard} on {instance} ({row.state}): records "
                f"{row.base} to {row.end}, {row.size_bytes:,} bytes; nothing brings it "
                "back"
            )
        if dry_run:
            return
    if not yes:
        if as_json:
            raise InvalidArgumentError("--json asks no question: give --yes too, or --dry-run")
        typer.confirm(f"Delete copy {replica_id} on {instance}?", abort=True)
    row = call(dry=False)
    print_json(row) if as_json else typer.echo(f"discarded copy {replica_id} on {instance}")


@group.command("adopt")
def adopt(
    instance: Instance,
    replica_id: ReplicaId,
    dry_run: DryRun = False,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Bring the log of an orphan back, with that copy; refused while the log exists.

    Example: logstore copies adopt instance-2 17
    """
    request = pb.CopyRequest(instance=instance, replica_id=replica_id, dry_run=dry_run)
    answer = ask_coordinator(address, "AdoptCopy", request, RestoredLog)
    if as_json:
        print_json({**fields_of(answer), "dry_run": dry_run})
        return
    what = f"{answer.shards} shards in {answer.copies} copies, {answer.records:,} records"
    typer.echo(f"log {answer.log} {'would be' if dry_run else 'is'} back: {what}")
    for note in answer.told:
        if note.kind != "note":
            typer.echo(f"{note.kind.upper()}: {note.subject}: {note.text}")
