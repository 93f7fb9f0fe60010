"""`logstore calendar add|list|remove`, `logstore profiles set|list|remove`."""

import csv
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    Coordinator,
    note,
    print_json,
    print_table,
    run,
)
from coordinator.cli.times import Tell, TimeReader, untold
from logstore.base.errors import InvalidArgumentError
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from profiler.calendar import Event

calendar = typer.Typer(help="Announced events: what is known of the future.", no_args_is_help=True)
profiles = typer.Typer(help="What client groups say that they will do.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(calendar, name="calendar")
    app.add_typer(profiles, name="profiles")


@calendar.command("add")
def add_event(
    name: Annotated[str, typer.Argument(help="One of the same name is replaced.")],
    start: Annotated[str, typer.Option(help="ISO time (UTC unless told) or Unix seconds.")],
    end: Annotated[str, typer.Option(help="The same; not part of the event.")],
    factor: Annotated[
        float | None,
        typer.Option(help="Times the usual load; default: what the last of its kind was."),
    ] = None,
    kind: Annotated[str, typer.Option(help="Events of one sort teach each other's factor.")] = "",
    shards: Annotated[
        list[str] | None, typer.Option("--shards", help="Prefix of shards (`LOG/`); default all.")
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Announce an event, in the logs' own time. It is in the forecasts at once.

    Example: logstore calendar add sale --start 2026-11-27T08:00 --end 2026-11-27T22:00 --factor 3
    """
    reader = TimeReader()
    start_s, end_s = reader.seconds("start", start), reader.seconds("end", end)
    try:
        event = Event(name, start_s, end_s, factor, kind, tuple(shards or ()))
    except ValueError as e:
        raise InvalidArgumentError(str(e)) from None
    request = pb.AddEventRequest(event_json=msgspec.json.encode(event))
    found = _call(address, "AddEvent", request)
    if as_json:
        print_json(found)
        return
    zone = " (UTC, as no zone is given)" if reader.zoneless else " UTC"
    typer.echo(f"announced {name}: {_when(start_s)} to {_when(end_s)}{zone}")
    if found["replaced"]:
        typer.echo(f"it replaces an event of this name, {_span(found['replaced'])}")
    for prefix in found["unmatched"]:
        note(f"no shard is called {prefix}… now")
    for other in found["overlaps"]:
        typer.echo(f"while both last, its factor multiplies with that of {other}")


@calendar.command("list")
def list_events(address: Address = ADDRESS, as_json: AsJson = False) -> None:
    """Show what is announced, earliest first.

    Example: logstore calendar list
    """
    found = _call(address, "ListEvents", pb.ListEventsRequest())["events"]
    if as_json:
        print_json(found)
        return
    print_table(
        "Announced events",
        ("event", "from", "to", "factor", "kind", "shards"),
        [
            (e["name"], _when(e["start_s"]), _when(e["end_s"]), e["factor"], e["kind"], e["shards"])
            for e in found
        ],
    )


@calendar.command("remove")
def remove_event(
    name: Annotated[str, typer.Argument()], address: Address = ADDRESS, as_json: AsJson = False
) -> None:
    """Take an event back.

    Example: logstore calendar remove sale
    """
    found = _call(address, "RemoveEvent", pb.RemoveEventRequest(name=name))
    print_json(found) if as_json else typer.echo(f"removed {name}")


@profiles.command("set")
def set_profile(
    group: Annotated[str, typer.Argument(help="The `client_group` of its connections.")],
    expect: Annotated[
        Path, typer.Option(help="CSV with a head: time (ISO or Unix s), operations/s from then on.")
    ],
    repeats: Annotated[bool, typer.Option(help="It starts again at its end.")] = False,
    log: Annotated[
        list[str] | None, typer.Option("--log", help="Only of this log; default of all.")
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Say what a client group is going to do, in place of what was said before.

    Times are evenly spaced; the last value holds for one step too.

    Example: logstore profiles set importer --expect import.csv --log orders
    """
    times, values = read_profile(expect, note)
    step_s = times[1] - times[0]
    record = {
        "group": group, "start_s": times[0], "step_s": step_s, "ops_per_s": values,
        "repeats": repeats, "logs": log or [],
    }  # fmt: skip
    request = pb.SetProfileRequest(group=group, profile_json=msgspec.json.encode(record))
    found = _call(address, "SetProfile", request)
    for name in found["unmatched"]:
        note(f"there is no log {name} now")
    print_json(found) if as_json else typer.echo(f"{group}: {len(values)} steps of {step_s:g} s")


@profiles.command("list")
def list_profiles(address: Address = ADDRESS, as_json: AsJson = False) -> None:
    """Show which client groups announced what they will do.

    Example: logstore profiles list
    """
    found = _call(address, "ListProfiles", pb.ListProfilesRequest())["profiles"]
    if as_json:
        print_json(found)
        return
    print_table(
        "Profiles of client groups",
        ("group", "from", "steps", "step s", "mean ops/s", "repeats", "logs"),
        [
            (p["group"], _when(p["start_s"]), len(p["ops_per_s"]), p["step_s"],
             sum(p["ops_per_s"]) / len(p["ops_per_s"]), p["repeats"], p["logs"])
            for p in found
        ],
    )  # fmt: skip


@profiles.command("remove")
def remove_profile(
    group: Annotated[str, typer.Argument()], address: Address = ADDRESS, as_json: AsJson = False
) -> None:
    """Take a group's profile back.

    Example: logstore profiles remove importer
    """
    found = _call(address, "SetProfile", pb.SetProfileRequest(group=group))
    print_json(found) if as_json else typer.echo(f"removed {group}")


def read_profile(path: Path, tell: Tell = untold) -> tuple[list[float], list[float]]:
    """Times in Unix seconds, evenly spaced, and operations/s, of a CSV of two columns."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row][1:]
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidArgumentError(f"{path}: {e}") from None
    if len(rows) < 2:
        raise InvalidArgumentError(f"{path} has {len(rows)} rows after its head, it needs 2")
    times: list[float] = []
    values: list[float] = []
    reader = TimeReader()
    for number, row in enumerate(rows, 2):
        try:
            at, value = row
            times.append(reader.seconds(f"{path}, line {number}: time", at))
            values.append(_rate(float(value)))
        except ValueError:
            raise InvalidArgumentError(
                f"{path}, line {number}: {','.join(row)[:80]!r}, "
                "it must be a time and a number >= 0"
            ) from None
    steps = [b - a for a, b in pairwise(times)]
    if not steps[0] > 0 or any(abs(step - steps[0]) > 1e-6 for step in steps):
        odd = next(n for n, s in enumerate(steps, 3) if not s > 0 or abs(s - steps[0]) > 1e-6)
        raise InvalidArgumentError(f"{path}, line {odd}: times must rise in even steps")
    reader.say(tell, str(path))
    return times, values


def _rate(value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(value)
    return value


def _call(address: str, method: str, request: Any) -> Any:
    async def work() -> Any:
        async with Coordinator(address) as coordinator:
            return await coordinator.json("Announcements", method, request)

    return run(work())


def _span(event: Mapping[str, Any]) -> str:
    return f"{_when(event['start_s'])} to {_when(event['end_s'])} UTC"


def _when(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
