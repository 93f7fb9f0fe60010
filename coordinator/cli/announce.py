"""`logstore calendar add|list|remove`, `logstore profiles set|list|remove`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from coordinator.answers.announced import AddedEvent, Events, Profiles, Removed, SetProfile
from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    ask_coordinator,
    note,
    print_json,
    print_odd,
    print_table,
)
from coordinator.cli.files import is_number, named, rows_after_head, shown_row
from coordinator.cli.times import Tell, TimeReader, no_notes
from logstore.base.errors import InvalidArgumentError
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from profiler.calendar import Event

T = TypeVar("T")

calendar = typer.Typer(help="Announced events: what is known of the future.", no_args_is_help=True)
profiles = typer.Typer(help="What client groups say that they will do.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(calendar, name="calendar")
    app.add_typer(profiles, name="profiles")


@calendar.command("add")
def add_event(
    name: Annotated[str, typer.Argument(help="One of the same name is replaced.")],
    start: Annotated[str, typer.Option(help="ISO time (UTC without a zone) or Unix seconds.")],
    end: Annotated[str, typer.Option(help="The same; not part of the event.")],
    factor: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=100, help="Times the usual load; default: what the last of its kind was."
        ),
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
    found = _call(address, "AddEvent", request, AddedEvent)
    if as_json:
        print_json(found)
        return
    zone = " (UTC, as no zone is given)" if reader.zoneless else " UTC"
    typer.echo(f"announced {name}: {_when(start_s)} to {_when(end_s)}{zone}")
    if found.replaced is not None:
        typer.echo(f"it replaces an event of this name, {_span(found.replaced)}")
    for prefix in found.unmatched:
        note(f"no shard is called {prefix}… now")
    for other in found.overlaps:
        typer.echo(f"while both last, its factor multiplies with that of {other}")


@calendar.command("list")
def list_events(address: Address = ADDRESS, as_json: AsJson = False) -> None:
    """Show announced events, earliest first.

    Example: logstore calendar list
    """
    answer = _call(address, "ListEvents", pb.ListEventsRequest(), Events)
    if as_json:
        print_json([*answer.events, *answer.odd])
        return
    print_table(
        "Announced events",
        ("event", "from", "to", "factor", "kind", "shards"),
        [
            (e.name, _when(e.start_s), _when(e.end_s), e.factor, e.kind, e.shards)
            for e in answer.events
        ],
    )
    print_odd("event", [(entry.name, entry.odd) for entry in answer.odd])


@calendar.command("remove")
def remove_event(
    name: Annotated[str, typer.Argument()], address: Address = ADDRESS, as_json: AsJson = False
) -> None:
    """Remove an announced event.

    Example: logstore calendar remove sale
    """
    found = _call(address, "RemoveEvent", pb.RemoveEventRequest(name=name), Removed)
    print_json(found) if as_json else typer.echo(f"removed {name}")


@profiles.command("set")
def set_profile(
    group: Annotated[str, typer.Argument(help="The `client_group` of its connections.")],
    expect: Annotated[
        Path,
        typer.Option(
            help="CSV (.gz too), with or without a head: time (ISO or Unix s), operations/s."
        ),
    ],
    repeats: Annotated[bool, typer.Option(help="It starts again at its end.")] = False,
    log: Annotated[
        list[str] | None, typer.Option("--log", help="Only of this log; default of all.")
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Announce the load of a client group, in place of its earlier profile.

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
    found = _call(address, "SetProfile", request, SetProfile)
    for name in found.unmatched:
        note(f"there is no log {name} now")
    print_json(found) if as_json else typer.echo(f"{group}: {len(values)} steps of {step_s:g} s")


@profiles.command("list")
def list_profiles(address: Address = ADDRESS, as_json: AsJson = False) -> None:
    """Show the announced profiles of client groups.

    Example: logstore profiles list
    """
    answer = _call(address, "ListProfiles", pb.ListProfilesRequest(), Profiles)
    if as_json:
        print_json([*answer.profiles, *answer.odd])
        return
    print_table(
        "Profiles of client groups",
        ("group", "from", "steps", "step s", "mean ops/s", "repeats", "logs"),
        [
            (p.group, _when(p.start_s), len(p.ops_per_s), p.step_s,
             sum(p.ops_per_s) / len(p.ops_per_s), p.repeats, p.logs)
            for p in answer.profiles
        ],
    )  # fmt: skip
    print_odd("profile", [(entry.name, entry.odd) for entry in answer.odd])


@profiles.command("remove")
def remove_profile(
    group: Annotated[str, typer.Argument()], address: Address = ADDRESS, as_json: AsJson = False
) -> None:
    """Remove a group's profile.

    Example: logstore profiles remove importer
    """
    found = _call(address, "SetProfile", pb.SetProfileRequest(group=group), Removed)
    print_json(found) if as_json else typer.echo(f"removed {group}")


def read_profile(path: Path, tell: Tell = no_notes) -> tuple[list[float], list[float]]:
    """Times in Unix seconds, evenly spaced, and operations/s, of a CSV of two columns.

    The first line is skipped only if it is a header: not a time and a number.
    """
    lines: list[int] = []
    times: list[float] = []
    values: list[float] = []
    reader = TimeReader()
    for number, row in rows_after_head(path, _is_step):
        where = f"{named(path)}, line {number}"
        if len(row) != 2:
            raise InvalidArgumentError(
                f"{where}: {shown_row(row)}, it must be a time and a number: 2 cells, not "
                f"{len(row)}"
            )
        lines.append(number)
        times.append(reader.seconds(f"{where}: time", row[0]))
        values.append(_rate(where, row))
    if len(times) < 2:
        raise InvalidArgumentError(
            f"{named(path)} has {len(times)} rows of a time and operations/s, it needs 2"
        )
    step = times[1] - times[0]
    for number, (a, b) in zip(lines[1:], pairwise(times), strict=True):
        if not step > 0 or abs(b - a - step) > 1e-6:
            raise InvalidArgumentError(
                f"{named(path)}, line {number}: times must rise in even steps, as from the first "
                f"to the second row by {step:g} s; here by {b - a:g} s"
            )
    reader.say(tell, named(path))
    return times, values


def _rate(where: str, row: Sequence[str]) -> float:
    value = float(row[1]) if is_number(row[1]) else float("nan")
    if not 0 <= value < float("inf"):
        raise InvalidArgumentError(
            f"{where}: {shown_row(row)}, it must be a time and a number of operations/s from 0 on"
        )
    return value


def _is_step(row: list[str]) -> bool:
    """A time and a number: a header's second cell is not a number."""
    return len(row) == 2 and is_number(row[1])


def _call(address: str, method: str, request: Any, kind: type[T]) -> T:
    return ask_coordinator(address, method, request, kind, "Announcements")


def _span(event: Event) -> str:
    return f"{_when(event.start_s)} to {_when(event.end_s)} UTC"


def _when(time_s: float) -> str:
    try:
        found = datetime.fromtimestamp(time_s, UTC)
    except (OverflowError, ValueError, OSError):  # beyond the times of a calendar
        return f"{time_s:g} s"
    return found.isoformat(" ", "seconds").removesuffix("+00:00")
