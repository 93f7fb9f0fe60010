"""What every command shares: options, calls with our errors, tables, JSON."""

import asyncio
import os
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from logstore.base.errors import InvalidArgumentError, LogstoreError
from logstore.base.types import Record
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc as rpc
from logstore.proto.status import called

ADDRESS = "127.0.0.1:7400"
TIMEOUT_S = 30.0

T = TypeVar("T")

Address = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="LOGSTORE_ADDRESS",
        metavar="HOST:PORT",
        help="Coordinator or instance, several with commas.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

out = Console(soft_wrap=False, highlight=False)


class CommandError(LogstoreError):
    """The command did its work and the answer is no: exit status 1."""

    code = "failed"


class Coordinator:
    """Calls to the coordinator behind the first of the addresses that answers."""

    def __init__(self, addresses: str) -> None:
        self._channels = [open_channel(a.strip()) for a in addresses.split(",") if a.strip()]

    async def call(
        self, service: str, method: str, request: Any, timeout_s: float = TIMEOUT_S
    ) -> Any:
        """A unary call; the next address is tried when one cannot be reached."""
        failed: LogstoreError | None = None
        for channel in self._channels:
            try:
                async with called():
                    stub = getattr(rpc, f"{service}Stub")(channel)
                    return await getattr(stub, method)(request, timeout=timeout_s)
            except LogstoreError as e:
                failed = e
                if e.code not in ("unavailable", "internal"):  # internal: no coordinator is there
                    raise
        raise failed or CommandError("--address is empty")

    async def json(self, service: str, method: str, request: Any) -> Any:
        """A unary call whose answer is JSON."""
        return msgspec.json.decode((await self.call(service, method, request)).json)

    def stream(self, service: str, method: str, request: Any) -> Any:
        """A server stream of the first address."""
        return getattr(getattr(rpc, f"{service}Stub")(self._channels[0]), method)(request)

    async def __aenter__(self) -> "Coordinator":
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part."""
    return asyncio.run(work)


def check_writable(option: str, path: Path) -> None:
    """Refuse a file that cannot be written before the work for it is done."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        why = "is a folder" if path.is_dir() else f"{folder} is no folder that can be written"
        raise InvalidArgumentError(f"{option} {path}: {why}")


def note(message: str) -> None:
    """One line on standard error that a person should know, and a script may leave."""
    typer.echo(f"note: {message}", err=True)


def print_json(value: object) -> None:
    """One JSON value a line, on standard output."""
    typer.echo(msgspec.json.encode(value, enc_hook=_plain).decode())


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows as a table; numbers are right-aligned. Not on a terminal: wide enough for any row."""
    table = Table(title=title, title_justify="left")
    held = [[_cell(value) for value in row] for row in rows]
    raw = list(zip(*held, strict=True)) if held else [()] * len(columns)
    for name, cells in zip(columns, raw, strict=True):
        numeric = all(cell.replace(".", "").replace("-", "").isdigit() for cell in cells if cell)
        table.add_column(name, justify="right" if numeric and cells else "left", overflow="fold")
    for row in held:
        table.add_row(*row)
    if out.is_terminal:
        out.print(table)
    else:
        Console(width=200, highlight=False, soft_wrap=True).print(table)


def text(data: bytes) -> str:
    """Bytes for people: UTF-8; what is not, or cannot be printed, is shown escaped."""
    found = data.decode("utf-8", "backslashreplace")
    return found if found.isprintable() else found.encode("unicode_escape").decode()


def record_json(record: Record) -> dict[str, object]:
    """A record as JSON: `key` and `value` as text, or `key_base64`, `value_base64`."""
    found: dict[str, object] = {"shard": record.shard, "offset": record.offset,
                                "timestamp": record.timestamp}  # fmt: skip
    for name in ("key", "value"):
        data: bytes = getattr(record, name)
        try:
            found[name] = data.decode()
        except UnicodeDecodeError:
            found[f"{name}_base64"] = data
    if record.headers:
        found["headers"] = {name: text(value) for name, value in record.headers.items()}
    return found


def range_text(found: dict[str, Any]) -> str:
    """A key range of a shard record's JSON as `[start, end)`."""
    start, end = (_key(found.get(name)) for name in ("start", "end"))
    return f"[{start or '-∞'}, {end or '∞'})"


def _key(value: str | None) -> str:
    return text(msgspec.convert(value, bytes, strict=False)) if value else ""


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".") if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    return str(value)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    raise NotImplementedError(f"{type(value).__name__} is not JSON")
