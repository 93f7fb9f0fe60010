"""`logstore append`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.cli.append_file import UNKNOWN_CHOICES, Given, append_file
from coordinator.cli.common import ADDRESS, Address, AsJson, print_json, run
from coordinator.cli.keys import from_base64, from_hex, one_of, raw
from logstore.base.errors import InvalidArgumentError
from logstore.client.client import connect


def register(app: typer.Typer) -> None:
    app.command("append")(append)


def append(
    name: Annotated[str, typer.Argument(metavar="LOG", help="Name of the log.")],
    key: Annotated[
        bytes | None, typer.Argument(parser=raw, metavar="KEY", help="Key of the record.")
    ] = None,
    value: Annotated[
        bytes | None, typer.Argument(parser=raw, metavar="VALUE", help="Its value.")
    ] = None,
    key_hex: Annotated[
        bytes | None,
        typer.Option(parser=from_hex, metavar="HEX", help="The key as 00ff, in place of KEY."),
    ] = None,
    key_base64: Annotated[
        bytes | None,
        typer.Option(parser=from_base64, metavar="BASE64", help="The key as AP8=, not as KEY."),
    ] = None,
    value_base64: Annotated[
        bytes | None,
        typer.Option(parser=from_base64, metavar="BASE64", help="The value as AP8=, not as VALUE."),
    ] = None,
    header: Annotated[
        list[bytes] | None,
        typer.Option(parser=raw, metavar="NAME=VALUE", help="Repeat for more."),
    ] = None,
    timestamp: Annotated[int | None, typer.Option(help="µs since 1970 UTC.")] = None,
    expected_version: Annotated[
        int | None,
        typer.Option(min=0, help="Only if the key has so many records."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines {"key", "value", "timestamp"}, or key_base64, value_base64; .gz too; '
            "- reads standard input."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the last run over --file stopped.")
    ] = False,
    resume_from: Annotated[
        int | None,
        typer.Option(min=1, metavar="LINE", help="Begin at this line of --file."),
    ] = None,
    unknown: Annotated[
        str | None,
        typer.Option(metavar="store|skip", help="With --resume: lines whose outcome is unknown."),
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Append one record, or many from a file.

    With --file lines are stored in order up to the first bad one, which is named; --resume goes on
    there. How far a file is stored is noted beside it (FILE.LOG.resume) until it is stored whole.

    Example: logstore append orders customer-7 '{"total": 12}'
    Example: logstore append orders --file orders.jsonl --resume
    """
    if file is not None:
        if unknown is not None and unknown not in UNKNOWN_CHOICES:
            raise InvalidArgumentError(f"--unknown is {unknown!r}, it must be store or skip")
        given = Given(name, file, resume, resume_from, unknown)
        run(append_file(address, given, as_json))
        return
    record = _record(key, value, one_of("key", key_hex, key_base64), value_base64)
    headers = dict(_header(pair) for pair in header or ())
    ack = run(_append_one(address, name, record, headers, timestamp, expected_version))
    print_json(ack) if as_json else typer.echo(f"{ack['shard']} offset {ack['offset']}")


def _record(
    key: bytes | None, value: bytes | None, key_coded: bytes | None, value_coded: bytes | None
) -> tuple[bytes, bytes]:
    """Key and value, each given once: as an argument or by an option (`coded`)."""
    if key_coded is not None:  # a single argument is the value then
        if key is not None and value is not None:
            raise InvalidArgumentError("key is given twice: KEY, and --key-hex or --key-base64")
        key, value = key_coded, value if value is not None else key
    if value_coded is not None:
        if value is not None:
            raise InvalidArgumentError("value is given twice: VALUE and --value-base64")
        value = value_coded
    if key is None or value is None:
        raise InvalidArgumentError("KEY and VALUE are needed, or --file")
    return key, value


async def _append_one(
    address: str,
    name: str,
    record: tuple[bytes, bytes],
    headers: dict[str, bytes],
    timestamp: int | None,
    expected_version: int | None,
) -> dict[str, Any]:
    async with connect(address) as db:
        log = await db.log(name)
        ack = await log.append(
            *record, headers=headers, timestamp=timestamp, expected_version=expected_version
        )
    found = {"shard": ack.shard, "offset": ack.offset, "timestamp": ack.timestamp}
    return found if ack.version is None else found | {"version": ack.version}


def _header(pair: bytes) -> tuple[str, bytes]:
    field, equals, content = pair.partition(b"=")
    shown = pair[:100].decode("utf-8", "backslashreplace")
    if not equals:
        raise InvalidArgumentError(f"header is {shown!r}, expected NAME=VALUE")
    try:
        return field.decode(), content
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"header is {shown!r}, its name is not UTF-8") from None
