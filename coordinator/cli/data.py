"""`logstore read` and `tail`."""

import contextlib
from typing import Annotated

import typer

from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    note,
    print_json,
    record_json,
    run,
    text,
    until_left,
)
from coordinator.cli.keys import (
    End,
    EndBase64,
    EndHex,
    Key,
    KeyBase64,
    KeyHex,
    Start,
    StartBase64,
    StartHex,
    one_of,
)
from logstore.client.client import Log, connect
from logstore.client.results import Records

Name = Annotated[str, typer.Argument(metavar="LOG", help="Name of the log.")]
Since = Annotated[
    int | None,
    typer.Option(help="From this time on, µs since 1970 UTC."),
]
Shard = Annotated[str | None, typer.Option(help="Only this shard.")]
Offset = Annotated[int | None, typer.Option(min=0, help="From this offset of --shard on.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many records.")]


def register(app: typer.Typer) -> None:
    app.command("read")(read)
    app.command("tail")(tail)


def read(
    name: Name,
    key: Key = None,
    key_hex: KeyHex = None,
    key_base64: KeyBase64 = None,
    start: Start = None,
    start_hex: StartHex = None,
    start_base64: StartBase64 = None,
    end: End = None,
    end_hex: EndHex = None,
    end_base64: EndBase64 = None,
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
                    key=one_of("key", key, key_hex, key_base64),
                    start=one_of("start", start, start_hex, start_base64),
                    end=one_of("end", end, end_hex, end_base64),
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
    key_hex: KeyHex = None,
    key_base64: KeyBase64 = None,
    start: Start = None,
    start_hex: StartHex = None,
    start_base64: StartBase64 = None,
    end: End = None,
    end_hex: EndHex = None,
    end_base64: EndBase64 = None,
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
                    key=one_of("key", key, key_hex, key_base64),
                    start=one_of("start", start, start_hex, start_base64),
                    end=one_of("end", end, end_hex, end_base64),
                    since=since,
                    shard=shard,
                    offset=offset,
                    limit=limit,
                    from_start=from_start,
                ),
                as_json,
            )

    with contextlib.suppress(KeyboardInterrupt):
        run(until_left(work()))


async def _print(log: Log, records: Records, as_json: bool) -> None:
    noted: set[str] = set()
    async with records:
        async for record in records:
            if len(noted) < len(log.trimmed):
                _tell_trimmed(log, noted)
            if as_json:
                print_json(record_json(record))
            else:
                place = f"{record.shard}:{record.offset}"
                typer.echo(f"{place}\t{record.timestamp}\t{text(record.key)}\t{text(record.value)}")
    _tell_trimmed(log, noted)


def _tell_trimmed(log: Log, noted: set[str]) -> None:
    """On standard error, once a shard: the first offset that is kept, if records were trimmed."""
    for shard, base in log.trimmed.items():
        if shard not in noted:
            note(f"{shard} begins at offset {base}, what was below is trimmed")
            noted.add(shard)
