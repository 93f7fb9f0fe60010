"""`logstore accesses`: the accesses that the instances sampled, by key, range and time."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import typer

from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    Coordinator,
    check_writable,
    note,
    print_json,
    print_table,
    run,
    text,
    time_text,
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
from coordinator.cli.parquet import write_parquet
from coordinator.cli.times import TimeReader
from logstore.base.env import Env
from logstore.base.errors import InvalidArgumentError
from logstore.proto.v1 import accesses_pb2

TOP_KEYS = 10
_AGO = re.compile(r"(\d{1,9})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Sampled(NamedTuple):
    """The samples of all instances, oldest first.

    `offered`: accesses since each instance started; `silent`: instance -> why it says nothing.
    """

    rows: pa.Table
    rate: dict[str, float]
    offered: dict[str, int]
    silent: dict[str, str]


def register(app: typer.Typer) -> None:
    app.command("accesses")(accesses)


def accesses(
    name: Annotated[str, typer.Argument(metavar="LOG", help="Name of the log.")],
    key: Key = None,
    key_hex: KeyHex = None,
    key_base64: KeyBase64 = None,
    start: Start = None,
    start_hex: StartHex = None,
    start_base64: StartBase64 = None,
    end: End = None,
    end_hex: EndHex = None,
    end_base64: EndBase64 = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="From then on: ISO time, Unix seconds, or 90s, 10m, 2h."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Show so many, the newest.")
    ] = 20,
    export: Annotated[
        Path | None, typer.Option(help="Write all of them to this file, NAME.parquet.")
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show who accessed which keys when, as sampled by the instances; export them as history.

    An instance keeps about 1,000 samples a second, older ones ever more sparsely: each stands for
    `weight` accesses. The file is read by log create --from-history and simulate --events.

    Example: logstore accesses orders --since 10m --export accesses.parquet
    """
    if export is not None:
        if export.suffix != ".parquet":
            raise InvalidArgumentError(f"--export is {str(export)!r}, it must end in .parquet")
        check_writable("--export", export)
    request = accesses_pb2.AccessesRequest(
        log=name,
        key=one_of("key", key, key_hex, key_base64),
        start=one_of("start", start, start_hex, start_base64) or b"",
        end=one_of("end", end, end_hex, end_base64),
        since_us=_since_us(since),
    )
    found = run(_ask(address, request))
    for instance, why in found.silent.items():
        note(f"the accesses of {instance} are missing: {why}")
    if export is not None:
        write_parquet(export, found.rows)
    if as_json:
        print_json(_as_json(found, limit))
        return
    _print(name, found, limit)
    if export is not None:
        typer.echo(f"wrote {found.rows.num_rows:,} samples to {export}")


async def _ask(address: str, request: accesses_pb2.AccessesRequest) -> Sampled:
    tables: list[pa.Table] = []
    rate: dict[str, float] = {}
    offered: dict[str, int] = {}
    silent: dict[str, str] = {}
    async with Coordinator(address) as coordinator:
        async for part in coordinator.stream("Accesses", "Read", request):
            if part.error:
                silent[part.instance] = part.error
                continue
            rate[part.instance], offered[part.instance] = part.rate, part.offered
            if part.arrow:
                tables.append(_table(part))
    rows = pa.concat_tables(tables).sort_by("time_s") if tables else _EMPTY
    return Sampled(rows, rate, offered, silent)


_SCHEMA = pa.schema(
    [
        ("time_s", pa.float64()),
        ("key", pa.binary()),
        ("op", pa.string()),
        ("size", pa.int64()),
        ("latency_us", pa.float32()),
        ("weight", pa.float32()),
        ("shard", pa.string()),
        ("instance", pa.string()),
        ("group", pa.string()),
    ]
)
_EMPTY = _SCHEMA.empty_table()


def _table(part: accesses_pb2.AccessesPart) -> pa.Table:
    """One part in the columns of the exported file."""
    with pa.ipc.open_stream(part.arrow) as stream:
        table = stream.read_all()
    columns = {
        **{name: table.column(name) for name in ("key", "op", "latency_us", "weight", "shard")},
        "time_s": pc.divide(pc.cast(table.column("time_us"), pa.float64()), 1e6),
        "size": pc.cast(table.column("size_bytes"), pa.int64()),
        "group": table.column("group"),
        "instance": pa.array([part.instance] * table.num_rows, pa.string()),
    }
    return pa.table([columns[name] for name in _SCHEMA.names], schema=_SCHEMA)


def _since_us(given: str | None) -> int:
    """Microseconds since 1970 of a time or of so long ago; 0: from the beginning."""
    if given is None:
        return 0
    ago = _AGO.fullmatch(given.strip())
    if ago is not None:
        ago_s = int(ago[1]) * _SECONDS[ago[2]]
        return max(0, Env().clock.wall_us() - ago_s * 1_000_000)
    return round(TimeReader().seconds("--since", given) * 1e6)


def _top(rows: pa.Table) -> list[tuple[bytes, float]]:
    """The keys with the most accesses, estimated."""
    total: defaultdict[bytes, float] = defaultdict(float)
    pairs = zip(rows.column("key").to_pylist(), rows.column("weight").to_pylist(), strict=True)
    for key, weight in pairs:
        if key:
            total[key] += weight
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))[:TOP_KEYS]


def _by(rows: pa.Table, column: str) -> dict[str, float]:
    """Estimated accesses by the values of a column."""
    grouped = rows.group_by(column).aggregate([("weight", "sum")]).sort_by(column)
    names, sums = grouped.column(column).to_pylist(), grouped.column("weight_sum").to_pylist()
    return dict(zip(names, sums, strict=True))


def _as_json(found: Sampled, limit: int) -> dict[str, Any]:
    rows = found.rows
    return {
        "samples": rows.num_rows,
        "accesses": sum(_by(rows, "op").values()),
        "by_op": _by(rows, "op"),
        "by_instance": _by(rows, "instance"),
        "rate": found.rate,
        "offered": found.offered,
        "silent": found.silent,
        "top_keys": [{"key": text(key), "accesses": count} for key, count in _top(rows)],
        "newest": [
            {**row, "key": text(row["key"])}
            for row in rows.slice(max(0, rows.num_rows - limit)).to_pylist()
        ],
    }


def _print(name: str, found: Sampled, limit: int) -> None:
    rows = found.rows
    ops = ", ".join(f"{count:,.0f} {op}" for op, count in _by(rows, "op").items())
    typer.echo(f"{name}: {rows.num_rows:,} samples stand for {ops or 'no accesses'}")
    if not rows.num_rows:
        return
    print_table("Keys with the most accesses", ("key", "accesses"),
                [(text(key), round(count)) for key, count in _top(rows)])  # fmt: skip
    newest = rows.slice(max(0, rows.num_rows - limit)).to_pylist()
    print_table(
        f"The newest {len(newest)}",
        ("time", "key", "operation", "bytes", "took ms", "stands for", "shard", "at", "group"),
        [
            (time_text(round(r["time_s"] * 1e6)), text(r["key"]), r["op"], r["size"],
             r["latency_us"] / 1e3, r["weight"], r["shard"], r["instance"], r["group"])
            for r in newest
        ],
    )  # fmt: skip
