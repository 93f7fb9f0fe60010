"""`logstore instances`, `cells` and `drain`."""

import asyncio
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn

from coordinator.answers.catalog import CellRow, DrainProgress, InstanceRow, RetiredInstance
from coordinator.cli import latency
from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    CommandError,
    Coordinator,
    DefaultToList,
    ask_coordinator,
    fields_of,
    load_text,
    out,
    print_json,
    print_table,
    run,
)
from logstore.base.errors import UnavailableError
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb

POLL_S = 0.25


group = typer.Typer(cls=DefaultToList, help="List instances; retire one that will not come back.")


def register(app: typer.Typer) -> None:
    latency.register(group)
    app.add_typer(group, name="instances", rich_help_panel=None)
    app.command("cells")(cells)
    app.command("drain")(drain)


@group.command("list")
def instances(address: Address = ADDRESS, as_json: AsJson = False) -> None:
    """List instances: address, capacity, load, failures, whether they are alive.

    Example: logstore instances list
    """

    async def work() -> list[InstanceRow]:
        async with Coordinator(address) as coordinator:
            return await coordinator.instances()

    found = run(work())
    if as_json:
        print_json(found)
        return
    print_table(
        "Instances",
        (
            "instance",
            "address",
            "alive",
            "draining",
            "load",
            "failures a day",
            "ops/s max",
            "bytes/s max",
            "tier",
            "zone",
        ),
        [
            (
                i.instance,
                i.address,
                i.alive,
                i.draining,
                load_text(i.load, i.bound_by),
                round(i.failures_per_day, 2),
                i.capacity.ops_per_s,
                i.capacity.bytes_per_s,
                i.tier,
                i.zone,
            )
            for i in found
        ],
    )  # fmt: skip


@group.command("retire")
def retire(
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="Which one is gone.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check whether it can go; change nothing.")
    ] = False,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Remove an instance whose machine will not come back.

    Refused while it lives, or while a shard needs its copy.

    Example: logstore instances retire instance-3
    """
    request = pb.RetireInstanceRequest(instance=instance, dry_run=dry_run)
    answer = ask_coordinator(address, "RetireInstance", request, RetiredInstance)
    if as_json:
        print_json({**fields_of(answer), "dry_run": dry_run})
        return
    what = f"{answer.learners} learners, {answer.tombstones} tombstones"
    typer.echo(f"{instance} {'can be' if dry_run else 'is'} retired ({what})")


def cells(address: Address = ADDRESS, as_json: AsJson = False) -> None:
    """Show which coordinator leads which cell, and what it works on.

    A cell is a part of the shards: its leader plans, moves, splits, merges and repairs them. Cell 0
    also creates and deletes logs, and merges shards of two cells.

    Example: logstore cells
    """
    found = ask_coordinator(address, "ListCells", pb.ListCellsRequest(), list[CellRow])
    if as_json:
        print_json(found)
        return
    alone = "the only coordinator" if len(found) == 1 else "none now"
    print_table(
        "Cells",
        ("cell", "leader", "shards", "moves", "splits, merges", "also"),
        [
            (c.cell, c.leader or alone, c.shards, c.migrations, c.reshapes,
             "logs; merges of two cells" if c.log_wide else "")
            for c in found
        ],
    )  # fmt: skip


def drain(
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="Which to empty.")],
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Stop emptying it; it takes shards again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check whether the others have room; do nothing.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow it until the instance is empty.")
    ] = True,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Move every copy off an instance, while all serve; it gets no new ones.

    It goes on when this command, or the coordinator, ends. Refused when the others lack room or
    copies would share a zone.

    Example: logstore drain instance-2
    """

    async def work() -> DrainProgress:
        async with Coordinator(address) as coordinator:
            request = pb.DrainRequest(instance=instance, dry_run=dry_run)
            method = "Cancel" if cancel else "Begin"
            progress_now = await coordinator.ask("Drains", method, request, DrainProgress)
            if cancel or dry_run or not wait:
                return progress_now
            return await _follow_drain(coordinator, instance, progress_now, as_json)

    progress_now = run(work())
    if as_json:
        print_json(progress_now)
    elif dry_run:
        typer.echo(
            f"{instance} can be drained: {progress_now.left} copies would go; nothing is done"
        )
    elif cancel:
        typer.echo(f"drain of {instance} cancelled; {progress_now.left} copies are left there")
    elif progress_now.left:
        typer.echo(f"drain of {instance} has begun; {progress_now.left} copies are to go")
    else:
        typer.echo(
            f"{instance} is drained: {progress_now.copies} copies in {progress_now.elapsed_s:g} s"
        )


async def _follow_drain(
    coordinator: Coordinator, instance: str, progress_now: DrainProgress, as_json: bool
) -> DrainProgress:
    """Show each change until nothing is left; CommandError when it was cancelled meanwhile."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"),
        console=out, disable=as_json or not out.is_terminal,
    )  # fmt: skip
    shown = -1
    with bar as progress:
        task = progress.add_task(f"drain {instance}", total=progress_now.copies, line="")
        while True:
            done = progress_now.copies - progress_now.left
            eta = "unknown" if progress_now.eta_s is None else f"{progress_now.eta_s:.0f} s"
            line = f"{done} of {progress_now.copies} copies are gone, ETA {eta}"
            progress.update(task, completed=done, total=progress_now.copies, line=line)
            if progress_now.left != shown and not out.is_terminal:
                print_json(progress_now) if as_json and progress_now.left else None
                typer.echo(line) if not as_json else None
            shown = progress_now.left
            if not shown:
                return progress_now
            await asyncio.sleep(POLL_S)
            try:
                request = pb.ListDrainsRequest()
                drains = await coordinator.ask("Drains", "List", request, list[DrainProgress])
            except UnavailableError:
                continue  # a coordinator restarts: the next leader goes on with the drain
            found = [d for d in drains if d.instance == instance]
            if not found:
                raise CommandError(f"the drain of {instance} was cancelled")
            progress_now = found[0]
