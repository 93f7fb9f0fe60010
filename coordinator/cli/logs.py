"""`logstore log …` and `logstore shards`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
import typer

from coordinator.answers.base import Answer, decode
from coordinator.answers.catalog import DeletedLog, InstanceRow, LogCount, RestoredLog
from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    Coordinator,
    ask_coordinator,
    fields_of,
    note,
    print_json,
    print_table,
    range_text,
    run,
    time_text,
)
from coordinator.cli.cuts import cuts_of_characters, cuts_of_sample, even_notes
from coordinator.cli.history import shards_from_history
from coordinator.cli.keys import from_base64, from_hex, raw
from coordinator.cli.weight import weights
from logstore.base.errors import InvalidArgumentError
from logstore.base.limits import SHARDS_PER_LOG_MAX
from logstore.client.client import connect
from logstore.meta.records import LogOptions, ShardRecord, decode_shard
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb

group = typer.Typer(help="Create, list, describe and delete logs.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="LOG", help="Name of the log.")]


class DescribedLog(Answer, frozen=True, kw_only=True):
    """A log in the form of `LogInfo`."""

    log: str
    map_version: int
    options: LogOptions
    shards: tuple[ShardRecord, ...]


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="log", rich_help_panel=None)
    app.command("shards")(shards)


def parse_option(text: str) -> tuple[str, object]:
    """`name=value` with the value as JSON where it is JSON, else as text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"option is {text!r}, expected NAME=VALUE")
    try:
        return name, msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return name, value


@group.command("create")
def create(
    name: Name,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=SHARDS_PER_LOG_MAX,
            help="Even ranges to start with; default 1, balanced: one an instance.",
        ),
    ] = None,
    split_key: Annotated[
        list[bytes] | None,
        typer.Option(parser=raw, metavar="KEY", help="Cut the key space here instead; repeat it."),
    ] = None,
    split_key_hex: Annotated[
        list[bytes] | None,
        typer.Option(parser=from_hex, metavar="HEX", help="The same, the key as 00ff."),
    ] = None,
    split_key_base64: Annotated[
        list[bytes] | None,
        typer.Option(parser=from_base64, metavar="BASE64", help="The same, the key as AP8=."),
    ] = None,
    instance: Annotated[
        list[str] | None, typer.Option(help="Primary of each shard, in order; default: the ring.")
    ] = None,
    partitioner: Annotated[str, typer.Option(help="range, hash or balanced")] = "range",
    from_history: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Cuts and homes from recorded accesses: a CSV with the columns time_s and key.",
        ),
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Cuts from a sample of keys, one a line."),
    ] = None,
    alphabet: Annotated[
        str | None,
        typer.Option(metavar="CHARS", help="Cuts for keys of these characters, as 0-9a-f."),
    ] = None,
    changefeed: Annotated[
        str | None,
        typer.Option(metavar="TOPIC", help="Publish every record to this Kafka topic, too."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="durability, compression, key_index, event_time …"),
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Create a log.

    Example: logstore log create orders --shards 4 --option durability=fsync
    Example: logstore log create flights --from-history accesses.csv --shards 12
    Example: logstore log create users --shards 8 --alphabet a-z
    """

    cuts = [*(split_key or ()), *(split_key_hex or ()), *(split_key_base64 or ())]
    cutting = {"--split-key": cuts, "--sample": sample, "--alphabet": alphabet}
    by = next((name for name, value in cutting.items() if value), None)
    if by is not None and partitioner != "range":
        raise InvalidArgumentError(
            f"{by} and --partitioner {partitioner} exclude each other: only the ranges of a range"
            " log are cut at keys"
        )
    count = shards
    if shards is not None and sample is not None:
        cuts, count = cuts_of_sample(sample, shards), None
    elif shards is not None and alphabet is not None:
        cuts, count = cuts_of_characters(alphabet, shards), None
    elif shards is not None and by is None and partitioner == "range" and from_history is None:
        for said in even_notes(shards):
            note(said)
    options: dict[str, Any] = dict(parse_option(o) for o in option or ())
    if changefeed is not None:
        options["changefeed"] = changefeed
    homes = list(instance or ())
    if from_history is not None:
        rows = run(_instances(address))
        planned = shards_from_history(from_history, partitioner, shards, rows, note)
        cuts, homes, count = (
            [s.range.start for s in planned[1:]],
            [s.instance for s in planned],
            None,
        )

    async def work() -> None:
        async with connect(address) as db:
            await db.create_log(
                name,
                partitioner=cast("Any", partitioner),  # the client reports which ones exist
                shards=count,
                split_keys=cuts,
                instances=homes,
                **options,
            )

    run(work())
    _show(run(_describe(address, name)), as_json)


async def _instances(address: str) -> list[InstanceRow]:
    async with Coordinator(address) as coordinator:
        return await coordinator.instances()


@group.command("list")
def list_logs(address: Address = ADDRESS, as_json: AsJson = False) -> None:
    """List the logs with their number of shards.

    Example: logstore log list
    """

    found = run(_listed(address))
    if as_json:
        print_json([fields_of(log) | {"shards": len(log.shards)} for log in found])
        return
    print_table(
        "Logs",
        ("log", "partitioner", "shards", "durability", "map version"),
        [
            (
                log.log,
                log.options.partitioner,
                len(log.shards),
                log.options.durability,
                log.map_version,
            )
            for log in found
        ],
    )


@group.command("describe")
def describe(name: Name, address: Address = ADDRESS, as_json: AsJson = False) -> None:
    """Show options and shards of a log.

    Example: logstore log describe orders --json
    """
    _show(run(_describe(address, name)), as_json)


@group.command("count")
def count(name: Name, address: Address = ADDRESS, as_json: AsJson = False) -> None:
    """Count the records of each shard, as its primary reports them.

    Example: logstore log count orders
    """
    request = pb.CountRecordsRequest(log=name)
    answer = ask_coordinator(address, "CountRecords", request, LogCount)
    if as_json:
        print_json(answer)
        return
    rows = [(s.shard, s.instance, s.records, s.cause) for s in answer.shards]
    print_table(f"Records of {name}", ("shard", "primary", "records", "unknown because"), rows)
    typer.echo(f"{answer.records:,} records{'' if answer.whole else ' and those of the unknown'}")


@group.command("delete")
def delete(
    name: Name,
    now: Annotated[
        bool, typer.Option("--now", help="Free its space at once: it cannot be restored.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted; delete nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Delete a log with all its records. For 24 h `log restore` brings it back, unless --now.

    Example: logstore log delete orders --yes
    """

    def call(*, dry: bool) -> DeletedLog:
        request = pb.DeleteLogRequest(name=name, now=now, dry_run=dry)
        return ask_coordinator(address, "DeleteLog", request, DeletedLog)

    if dry_run or not (yes or as_json):
        would = call(dry=True)
        if dry_run:
            if as_json:
                print_json({**fields_of(would), "dry_run": True})
            else:
                typer.echo(_what_goes(would))
            return
        typer.echo(_what_goes(would))
    if not yes:
        if as_json:
            raise InvalidArgumentError("--json asks no question: give --yes too, or --dry-run")
        typer.confirm(f"Delete log {name} with all its records?", abort=True)
    answer = call(dry=False)
    if as_json:
        print_json({"deleted": name, **fields_of(answer)})
        return
    until = time_text(answer.keep_until_us)
    kept = f"; until {until} `logstore log restore {name}` brings it back"
    typer.echo(f"deleted {name}{kept if answer.keep_s else ''}")


def _what_goes(answer: DeletedLog) -> str:
    """One sentence: what a deletion removes, and how long it can be undone."""
    records, size = answer.records, answer.size_bytes
    what = f"{answer.shards} shards in {answer.copies} copies"
    if records is not None:
        what += f", {records:,} records, {size:,} bytes"
    else:
        what += " (an instance does not answer, so the number of records is unknown)"
    back = (
        f"for {answer.keep_s / 3600:g} h it can be brought back"
        if answer.keep_s
        else "it cannot be brought back"
    )
    return f"log {answer.log}: {what}; {back}"


@group.command("restore")
def restore(
    name: Name,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would come back; write nothing.")
    ] = False,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Bring a deleted log back, from the copies that its instances still keep.

    Example: logstore log restore orders
    """
    request = pb.RestoreLogRequest(name=name, dry_run=dry_run)
    answer = ask_coordinator(address, "RestoreLog", request, RestoredLog)
    if as_json:
        print_json({**fields_of(answer), "dry_run": dry_run})
        return
    what = f"{answer.shards} shards in {answer.copies} copies, {answer.records:,} records"
    typer.echo(f"log {name} {'would be' if dry_run else 'is'} back: {what}")
    for one in answer.told:
        if one.kind != "note":
            typer.echo(f"{one.kind.upper()}: {one.subject}: {one.text}")


def shards(
    name: Annotated[str | None, typer.Argument(metavar="LOG", help="Default: all logs.")] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """List shards: key range, primary, epoch, migration.

    Example: logstore shards orders
    """

    logs = run(_listed(address)) if name is None else [run(_describe(address, name))]
    found = [shard for log in logs for shard in log.shards]
    weight = {row.shard: row.weight for row in weights(address, name or "")}
    if as_json:
        print_json(
            [msgspec.to_builtins(s) | {"migration_weight": weight.get(s.shard)} for s in found]
        )
        return
    _print_shards("Shards", found, weight)


async def _listed(address: str) -> list[DescribedLog]:
    async with Coordinator(address) as coordinator:
        answer = await coordinator.call("Catalog", "ListLogs", pb.ListLogsRequest())
        return [_info(log) for log in answer.logs]


async def _describe(address: str, name: str) -> DescribedLog:
    async with Coordinator(address) as coordinator:
        request = pb.DescribeLogRequest(name=name)
        return _info(await coordinator.call("Catalog", "DescribeLog", request))


def _info(info: pb.LogInfo) -> DescribedLog:
    return DescribedLog(
        log=info.name,
        map_version=info.map_version,
        options=decode(info.options_json, LogOptions),
        shards=tuple(decode_shard(shard) for shard in info.shards_json),
    )


def _show(info: DescribedLog, as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    print_table("Options", ("option", "value"), list(fields_of(info)["options"].items()))
    _print_shards(f"Shards of {info.log}", info.shards)


def _print_shards(
    title: str, found: Sequence[ShardRecord], weight: Mapping[str, float] | None = None
) -> None:
    more = ("weight",) if weight is not None else ()
    print_table(
        title,
        ("shard", "range", "status", "primary", "in sync", "learners", "epoch", "migration", *more),
        [
            (
                s.shard,
                range_text(s.range),
                s.status,
                s.primary.instance,
                [m.instance for m in s.in_sync],
                [m.instance for m in s.learners],
                s.epoch,
                s.migration,
                *([weight.get(s.shard)] if weight is not None else []),
            )
            for s in found
        ],
    )
    for s in found:
        for loss in s.possible_loss:
            typer.echo(
                f"POSSIBLE LOSS in {s.shard}: acked records from offset {loss.offset} on "
                f"may be missing since epoch {loss.epoch} ({loss.cause})"
            )
