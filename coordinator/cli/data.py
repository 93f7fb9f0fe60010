"""`logstore append`, `read`, `tail`."""

import contextlib
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import Progress

from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    note,
    out,
    print_json,
    record_json,
    run,
    text,
)
from logstore.base.errors import InvalidArgumentError
from logstore.base.types import Record
from logstore.client.client import Log, connect

LINES_PER_CALL = 1_000

Name = Annotated[str, typer.Argument(metavar="LOG", help="Name of the log.")]
Key = Annotated[str | None, typer.Option(help="Only this key.")]
Start = Annotated[str | None, typer.Option(help="Keys from here on.")]
End = Annotated[str | None, typer.Option(help="Keys below this.")]
Since = Annotated[int | None, typer.Option(help="From this time on, µs since 1970 UTC.")]
Shard = Annotated[str | None, typer.Option(help="Only this shard.")]
Offset = Annotated[int | None, typer.Option(help="From this offset of --shard on.")]
Limit = Annotated[int | None, typer.Option(help="At most so many records.")]


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line of `append --file`."""

    key: str
    value: str
    timestamp: int | None = None


def register(app: typer.Typer) -> None:
    app.command("append")(append)
    app.command("read")(read)
    app.command("tail")(tail)


def append(
    name: Name,
    key: Annotated[str | None, typer.Argument(help="Key of the record.")] = None,
    value: Annotated[str | None, typer.Argument(help="Its value.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Repeat for more.")
    ] = None,
    timestamp: Annotated[int | None, typer.Option(help="µs since 1970 UTC.")] = None,
    expected_version: Annotated[
        int | None, typer.Option(help="Only if the key has so many records.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help='JSON lines {"key", "value", "timestamp"}; - reads standard input.'),
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Append one record, or many from a file.

    Example: logstore append orders customer-7 '{"total": 12}'
    """
    if file is not None:
        if key is not None:
            raise InvalidArgumentError("KEY is given together with --file")
        run(_append_file(address, name, file, as_json))
        return
    if key is None or value is None:
        raise InvalidArgumentError("KEY and VALUE are needed, or --file")
    headers = {}
    for pair in header or ():
        field, equals, content = pair.partition("=")
        if not equals:
            raise InvalidArgumentError(f"header is {pair!r}, expected NAME=VALUE")
        headers[field] = content.encode()

    async def work() -> dict[str, Any]:
        async with connect(address) as db:
            log = await db.log(name)
            ack = await log.append(
                key.encode(),
                value.encode(),
                headers=headers,
                timestamp=timestamp,
                expected_version=expected_version,
            )
            found = {"shard": ack.shard, "offset": ack.offset, "timestamp": ack.timestamp}
            return found if ack.version is None else found | {"version": ack.version}

    ack = run(work())
    print_json(ack) if as_json else typer.echo(f"{ack['shard']} offset {ack['offset']}")


async def _append_file(address: str, name: str, file: Path, as_json: bool) -> None:
    count = 0
    async with connect(address) as db:
        log = await db.log(name)
        with Progress(console=out, disable=as_json or not out.is_terminal) as progress:
            task = progress.add_task("append", total=None)
            for lines in _chunks(file):
                timed = lines[0].timestamp is not None
                if any((line.timestamp is not None) is not timed for line in lines):
                    raise InvalidArgumentError("timestamp is given on some lines and not on others")
                await log.append_many(
                    [line.key.encode() for line in lines],
                    [line.value.encode() for line in lines],
                    [line.timestamp for line in lines] if timed else None,
                )
                count += len(lines)
                progress.update(task, advance=len(lines))
    print_json({"appended": count}) if as_json else typer.echo(f"appended {count} records")


def _chunks(file: Path) -> Iterator[list[_Line]]:
    decoder = msgspec.json.Decoder(_Line)
    held: list[_Line] = []
    with contextlib.ExitStack() as stack:
        source = sys.stdin.buffer if str(file) == "-" else stack.enter_context(file.open("rb"))
        for number, line in enumerate(source, 1):
            try:
                held.append(decoder.decode(line))
            except msgspec.DecodeError as e:
                raise InvalidArgumentError(f"{file}, line {number}: {e}") from None
            if len(held) == LINES_PER_CALL:
                yield held
                held = []
    if held:
        yield held


def read(
    name: Name,
    key: Key = None,
    start: Start = None,
    end: End = None,
    since: Since = None,
    shard: Shard = None,
    offset: Offset = None,
    limit: Limit = None,
    order: Annotated[str, typer.Option(help="any (fastest) or key")] = "any",
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Read records: of a key, a key range, a shard, or all of them.

    Example: logstore read orders --key customer-7
    """

    async def work() -> None:
        async with connect(address) as db:
            log = await db.log(name)
            await _print(
                log,
                log.read(
                    key=_bytes(key),
                    start=_bytes(start),
                    end=_bytes(end),
                    since=since,
                    shard=shard,
                    offset=offset,
                    limit=limit,
                    order=order,  # type: ignore[arg-type]
                ),
                as_json,
            )

    run(work())


def tail(
    name: Name,
    key: Key = None,
    start: Start = None,
    end: End = None,
    since: Since = None,
    shard: Shard = None,
    offset: Offset = None,
    limit: Limit = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="First what is stored already.")
    ] = False,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Print records as they are appended, until Ctrl-C.

    Example: logstore tail orders --from-start
    """

    async def work() -> None:
        async with connect(address) as db:
            log: Log = await db.log(name)
            await _print(
                log,
                log.tail(
                    key=_bytes(key),
                    start=_bytes(start),
                    end=_bytes(end),
                    since=since,
                    shard=shard,
                    offset=offset,
                    limit=limit,
                    from_start=from_start,
                ),
                as_json,
            )

    with contextlib.suppress(KeyboardInterrupt):
        run(work())


async def _print(log: Log, records: AsyncGenerator[Record, None], as_json: bool) -> None:
    told: set[str] = set()
    async with contextlib.aclosing(records):
        async for record in records:
            if len(told) < len(log.trimmed):
                _tell_trimmed(log, told)
            if as_json:
                print_json(record_json(record))
            else:
                place = f"{record.shard}:{record.offset}"
                typer.echo(f"{place}\t{record.timestamp}\t{text(record.key)}\t{text(record.value)}")
    _tell_trimmed(log, told)


def _tell_trimmed(log: Log, told: set[str]) -> None:
    """On standard error, once a shard: what was left out because it is gone."""
    for shard, base in log.trimmed.items():
        if shard not in told:
            note(f"{shard} begins at offset {base}, what was below is trimmed")
            told.add(shard)


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else value.encode()
