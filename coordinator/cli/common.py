"""Shared by all commands: options, calls with our errors, tables, JSON."""

import asyncio
import contextlib
import logging
import os
import stat
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import grpc.aio
import msgspec
import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from coordinator.answers.base import decode, encode
from coordinator.answers.catalog import InstanceRow
from coordinator.cli.failures import debugging, one_line
from logstore.base.address import parse_addresses
from logstore.base.background import Background
from logstore.base.errors import InvalidArgumentError, LogstoreError, NotServedHereError
from logstore.base.status import Status
from logstore.base.types import Record
from logstore.proto.coordinator_v1 import accesses_pb2_grpc
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc as rpc
from logstore.proto.status import called
from logstore.proto.transport import GrpcTransport
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from sharder.keys import KeyRange

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


class DefaultToList(TyperGroup):
    """A command with subcommands that lists when none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--help" not in args and (not args or args[0] not in self.commands):
            args = ["list", *args]
        return super().parse_args(ctx, args)


class _Console(Console):
    """Ends like any other output when its reader is gone (rich ends with status 1)."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


out = _Console(soft_wrap=False, highlight=False)

_NEXT = ("unavailable", NotServedHereError.code)
"""Errors of an address after which the next one is tried."""


class CommandError(LogstoreError):
    """The command ran and the answer is no: exit status 1."""

    code = "failed"
    status = Status.FAILED_PRECONDITION
    remedy = "Read what the command printed: it did its work, and the answer is no."


class Coordinator:
    """Calls to the coordinator behind the first of the addresses that answers."""

    def __init__(self, addresses: str) -> None:
        self._addresses = list(dict.fromkeys(parse_addresses(addresses)))
        self._transport = GrpcTransport()

    async def call(
        self, service: str, method: str, request: Any, timeout_s: float = TIMEOUT_S
    ) -> Any:
        """A unary call; the next address is tried when one cannot be reached."""
        failed: list[LogstoreError] = []
        for address in self._addresses:
            channel = self._transport.channel(address)
            try:
                async with called():
                    stub = _stub(service, channel)
                    return await getattr(stub, method)(request, timeout=timeout_s)
            except LogstoreError as e:
                if e.code not in _NEXT:
                    raise
                failed.append(await _explained(e, address, channel))
        raise _worst(failed)

    async def ask(self, service: str, method: str, request: Any, kind: type[T]) -> T:
        """A unary call whose answer is JSON, of a kind of `coordinator.answers`."""
        return decode((await self.call(service, method, request)).json, kind)

    async def instances(self) -> list[InstanceRow]:
        """Every registered instance."""
        answer = await self.call("Catalog", "ListInstances", pb.ListInstancesRequest())
        return [decode(item, InstanceRow) for item in answer.instances_json]

    async def stream(self, service: str, method: str, request: Any) -> AsyncIterator[Any]:
        """A server stream; the next address is tried until the first message."""
        failed: list[LogstoreError] = []
        for address in self._addresses:
            channel, begun = self._transport.channel(address), False
            try:
                async with called():
                    stub = _stub(service, channel)
                    async for message in getattr(stub, method)(request):
                        begun = True
                        yield message
                    return
            except LogstoreError as e:
                if begun or e.code not in _NEXT:
                    raise
                failed.append(await _explained(e, address, channel))
        raise _worst(failed)

    async def __aenter__(self) -> "Coordinator":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()


def ask_coordinator(
    addresses: str, method: str, request: Any, kind: type[T], service: str = "Catalog"
) -> T:
    """One unary call whose answer is JSON, of a kind of `coordinator.answers`."""

    async def work() -> T:
        async with Coordinator(addresses) as coordinator:
            return await coordinator.ask(service, method, request, kind)

    return run(work())


def _stub(service: str, channel: grpc.aio.Channel) -> Any:
    """The generated stub of a service of coordinator.v1."""
    module = accesses_pb2_grpc if service == "Accesses" else rpc
    return getattr(module, f"{service}Stub")(channel)


async def _explained(
    error: LogstoreError, address: str, channel: grpc.aio.Channel
) -> LogstoreError:
    """A call that the process does not serve: say which process is there."""
    if not isinstance(error, NotServedHereError):
        return error
    try:
        async with called():
            await NodeAdminStub(channel).Status(node_pb2.StatusRequest(), timeout=TIMEOUT_S)
    except LogstoreError as e:
        if isinstance(e, NotServedHereError):
            return NotServedHereError(f"{address} is no coordinator: {error.message}")
    return NotServedHereError(
        f"{address} is an instance; this command needs a coordinator (--address HOST:PORT)"
    )


def _worst(failed: Sequence[LogstoreError]) -> LogstoreError:
    """The most useful error: an unreachable coordinator before a process of another kind."""
    for error in failed:
        if not isinstance(error, NotServedHereError):
            return error
    return failed[0]


_loop: asyncio.Runner | None = None


@contextlib.contextmanager
def one_loop() -> Iterator[None]:
    """All `run`s inside share one event loop: gRPC keeps state of its first loop."""
    global _loop
    outer = _loop
    with asyncio.Runner() as _loop:
        try:
            yield
        finally:
            _loop = outer


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part."""
    if not debugging():  # errors of background tasks mean nothing to a person
        logging.getLogger().addHandler(_SILENT)
    if _loop is None:
        return asyncio.run(work)
    return _loop.run(work)


_SILENT = logging.NullHandler()


async def until_left(work: Coroutine[Any, Any, T]) -> T:
    """Do work that may wait for ever; BrokenPipeError once the reader of our output has left."""
    task = Background("a command").answer(work)
    watched = _output_pipe()
    if watched is None:
        return await task
    loop, left = asyncio.get_running_loop(), False

    def leave() -> None:
        nonlocal left
        left = True
        loop.remove_reader(watched)
        task.cancel()

    loop.add_reader(watched, leave)  # a pipe's writing end "can be read" when it has no reader
    try:
        return await task
    except asyncio.CancelledError:
        if left:
            raise BrokenPipeError from None
        raise
    finally:
        loop.remove_reader(watched)


def _output_pipe() -> int | None:
    """The descriptor of standard output where it is a pipe."""
    try:
        number = sys.stdout.fileno()
        return number if stat.S_ISFIFO(os.fstat(number).st_mode) else None
    except (AttributeError, OSError, ValueError):
        return None


def check_writable(option: str, path: Path) -> None:
    """Refuse a file that cannot be written before the work for it is done."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        why = "is a folder" if path.is_dir() else f"{folder} is no folder that can be written"
        raise InvalidArgumentError(f"{option} {path}: {why}")


def note(message: str) -> None:
    """One line on standard error that a person should know, and a script may ignore."""
    typer.echo(f"note: {one_line(message)}", err=True)


def print_json(value: object) -> None:
    """One JSON value a line, on standard output."""
    typer.echo(encode(value).decode())


def fields_of(answer: msgspec.Struct) -> dict[str, Any]:
    """An answer's fields as JSON types, to be printed with more fields."""
    found: dict[str, Any] = msgspec.to_builtins(answer)
    return found


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
        _Console(width=200, highlight=False, soft_wrap=True).print(table)


def print_odd(what: str, entries: Sequence[tuple[str, str]]) -> None:
    """Below a table: stored entries that it cannot show, each with its name and the reason."""
    for name, why in entries:
        typer.echo(f"odd {what} {name!r}: it cannot be read ({why})")


def time_text(us: int | None) -> str:
    """Microseconds since 1970 as UTC; empty for none."""
    if not us:
        return ""
    return datetime.fromtimestamp(us / 1e6, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def text(data: bytes) -> str:
    """Bytes for people: UTF-8; other bytes and unprintable characters are escaped."""
    found = data.decode("utf-8", "backslashreplace")
    return found if found.isprintable() else found.encode("unicode_escape").decode()


def record_json(record: Record) -> dict[str, object]:
    """A record as JSON, without loss: `key` and `value` as text where they are UTF-8, else as
    `key_base64` and `value_base64`. `headers` are text for people; those that are not UTF-8 are
    in `headers_base64` as well.
    """
    found: dict[str, object] = {"shard": record.shard, "offset": record.offset,
                                "timestamp": record.timestamp}  # fmt: skip
    for name in ("key", "value"):
        data: bytes = getattr(record, name)
        try:
            found[name] = data.decode()
        except UnicodeDecodeError:
            found[f"{name}_base64"] = data
    if record.headers:
        found["headers"] = {name: _or_escaped(value) for name, value in record.headers.items()}
        other = {name: value for name, value in record.headers.items() if not _is_utf8(value)}
        if other:
            found["headers_base64"] = other
    return found


def _or_escaped(data: bytes) -> str:
    return data.decode() if _is_utf8(data) else text(data)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def range_text(keys: KeyRange) -> str:
    """A key range as `[start, end)`."""
    return f"[{text(keys.start) or '-∞'}, {text(keys.end or b'') or '∞'})"


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


def load_text(load: float | None, bound_by: str | None) -> str:
    """A load with the resource that binds: "0.62 (CPU)"."""
    if load is None:
        return ""
    return f"{load:.2f} ({bound_by})" if bound_by else f"{load:.2f}"
