"""`logstore move`, `migrations`, `pause`, `resume`, `abort`, `rollback`, `complete`."""

from dataclasses import astuple, fields
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, Progress, TextColumn

from coordinator.answers.base import decode
from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    CommandError,
    Coordinator,
    ask_coordinator,
    fields_of,
    out,
    print_json,
    print_odd,
    print_table,
    run,
)
from coordinator.cli.logs import parse_option
from coordinator.cli.story import copied, expected_text, story_lines, window_text
from coordinator.migration.answers import DryMove, Migration, MigrationRows
from coordinator.migration.dry_run import DryStep
from coordinator.migration.records import State
from coordinator.migration.table import check_used
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb

STEPS = (
    "planned", "preparing", "snapshot", "catching-up", "verifying", "shadowing", "ramping",
    "cutover", "soaking", "completed",
)  # fmt: skip

Id = Annotated[str, typer.Argument(metavar="ID", help="The migration, see `migrations`.")]
Watch = Annotated[bool, typer.Option("--watch", help="Follow it to its end.")]
Cause = Annotated[str, typer.Option(help="Kept in the migration's record.")]


def register(app: typer.Typer) -> None:
    app.command("move")(move)
    app.command("migrations")(migrations)
    for action, doc in (
        ("pause", "Stop a migration where it is; the shard serves on."),
        ("resume", "Go on with a paused migration."),
        ("abort", "End a migration before its cutover and drop the copy."),
        ("rollback", "Go back to the source, also while the source soaks."),
        ("complete", "End the soaking now and drop the source's copy."),
    ):
        app.command(action, help=f"{doc}\n\nExample: logstore {action} m1")(_control(action))


def move(
    shard: Annotated[str, typer.Argument(metavar="SHARD", help="LOG/NUMBER")],
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="Where it goes.")],
    strategy: Annotated[
        str, typer.Option(help="auto, switch, shadow, log-shipping, copy-on-write")
    ] = "auto",
    feed: Annotated[
        str | None, typer.Option(help="direct or kafka; default: kafka where one is configured.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show steps, bytes and time; do nothing.")
    ] = False,
    watch: Watch = False,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="ramp_step, ramp_interval_s, soak_s …; repeat it."),
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Move a shard's primary to another instance while it serves.

    Example: logstore move orders/0 instance-2 --watch
    """
    options = dict(parse_option(text) for text in option or ())
    if feed is not None:
        options["feed"] = feed
    check_used(strategy, options)
    request = pb.MoveRequest(
        shard=shard,
        target=instance,
        strategy=strategy,
        dry_run=dry_run,
        options_json=msgspec.json.encode(options) if options else b"",
    )

    if dry_run:
        _print_dry_run(ask_coordinator(address, "Move", request, DryMove, "Migrations"), as_json)
        return

    async def work() -> Migration:
        async with Coordinator(address) as coordinator:
            begun = await coordinator.ask("Migrations", "Move", request, Migration)
            return await _follow(coordinator, begun.id, as_json) if watch else begun

    found = run(work())
    if not watch:
        print_json(found) if as_json else typer.echo(
            f"migration {found.id}: {found.shard} from {found.source} to {found.target}"
        )


def migrations(
    migration: Annotated[str | None, typer.Argument(metavar="ID", help="Default: all.")] = None,
    watch: Watch = False,
    active: Annotated[bool, typer.Option("--active", help="Only those at work.")] = False,
    story: Annotated[
        bool, typer.Option("--story", help="Show what happened, from planned to its end.")
    ] = False,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """List migrations, show one's story, or follow one (the newest, without ID) to its end.

    Example: logstore migrations m1 --story
    """

    async def work() -> Migration | MigrationRows | None:
        async with Coordinator(address) as coordinator:
            if migration is None:
                request = pb.ListMigrationsRequest(active_only=active)
                rows = await coordinator.ask("Migrations", "List", request, MigrationRows)
                if not watch:
                    return rows
                if not rows.known:
                    raise CommandError("there is no migration to watch")
                await _follow(coordinator, rows.known[-1].id, as_json)
                return None
            if watch:
                await _follow(coordinator, migration, as_json)
                return None
            get = pb.GetMigrationRequest(id=migration)
            return await coordinator.ask("Migrations", "Get", get, Migration)

    found = run(work())
    if found is None:
        return
    if as_json:
        print_json(found)
    elif isinstance(found, MigrationRows):
        _print_rows(found)
    elif story:
        for line in story_lines(found):
            typer.echo(line)
    else:
        _print_one(found)


def _control(action: str) -> Any:
    def control(
        migration: Id, cause: Cause = "asked for", address: Address = ADDRESS,
        as_json: AsJson = False,
    ) -> None:  # fmt: skip
        request = pb.ControlRequest(id=migration, action=action, cause=cause)
        found = ask_coordinator(address, "Control", request, Migration, "Migrations")
        print_json(found) if as_json else typer.echo(
            f"migration {found.id}: {action} asked for, state {found.state}"
        )

    return control


async def _follow(coordinator: Coordinator, migration: str, as_json: bool) -> Migration:
    """Show every change until the end; CommandError unless it completed."""
    found: Migration | None = None
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"),
        console=out, disable=as_json or not out.is_terminal,
    )  # fmt: skip
    with bar as progress:
        task = progress.add_task("", total=len(STEPS) - 1, line="")
        stream = coordinator.stream("Migrations", "Watch", pb.GetMigrationRequest(id=migration))
        async for message in stream:
            found = decode(message.json, Migration)
            line = _line(found)
            if as_json:
                print_json(found)
            elif not out.is_terminal:
                typer.echo(f"{found.state.value:<12} {line}")
            done = STEPS.index(found.state) if found.state in STEPS else 0
            part = found.p if found.state is State.RAMPING else 0.0
            progress.update(
                task, completed=done + part, description=f"{found.shard} {found.state}",
                line=line,
            )  # fmt: skip
    if found is not None and found.state is State.ROLLED_BACK and found.cause == "asked for":
        if not as_json:
            typer.echo(f"migration {migration} went back to {found.source}, as asked")
        return found
    if found is None or found.state is not State.COMPLETED:
        state = found.state if found is not None else "unknown"
        cause = f": {found.cause}" if found is not None and found.cause else ""
        raise CommandError(f"migration {migration} ended as {state}{cause}")
    if not as_json:
        blackout = found.blackout_ms
        typer.echo(
            f"migration {migration} completed in {found.duration_s:g} s: "
            f"copied {copied(found)}, chains equal: {found.hash_equal}, "
            f"blackout {'unknown' if blackout is None else f'{blackout:.1f} ms'}"
        )
    return found


def _line(found: Migration) -> str:
    size = f"{found.bytes_copied / 1e6:.1f} of {found.bytes / 1e6:.1f} MB"
    return f"p {found.p:.2f}  {size}  ETA {found.eta_s:.1f} s"


def _print_rows(found: MigrationRows) -> None:
    print_table(
        "Migrations",
        ("id", "shard", "from", "to", "state", "p", "trigger", "took s", "ETA s", "blackout ms",
         "hash equal"),
        [
            (m.id, m.shard, m.source, m.target, m.state + (" (paused)" if m.paused else ""), m.p,
             m.trigger, m.duration_s, m.eta_s, m.blackout_ms, m.hash_equal)
            for m in found.known
        ],
    )  # fmt: skip
    print_odd("migration", [(entry.id, entry.odd) for entry in found.odd])


def _print_dry_run(found: DryMove, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_table(
        f"Dry run: {found.shard} from {found.source} to {found.target}, "
        f"{found.bytes / 1e6:.1f} MB by {found.strategy}, "
        f"about {expected_text(found.seconds, found.seconds_low, found.seconds_high)}, "
        f"blackout about {found.blackout_ms:g} ms; nothing is done",
        [field.name for field in fields(DryStep)],
        [astuple(step) for step in found.steps],
    )


def _print_one(found: Migration) -> None:
    hidden = ("story", "options", "phases", "notes", "windows")
    rows = [(key, _plain(value)) for key, value in fields_of(found).items() if key not in hidden]
    print_table(f"Migration {found.id}", ("field", "value"), rows)
    for line in found.story:
        typer.echo(f"  {line}")
    for when, window in found.windows.items():
        typer.echo(f"  {when}: {window_text(window)}")


def _plain(value: object) -> object:
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else value
