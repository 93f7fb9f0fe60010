"""`logstore planner get|set|reset|history`: the planner's weights, thresholds and limits, live."""

import getpass
import socket
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import typer

from coordinator.answers.plans import PlannerChange, PlannerSetting, PlannerSettings
from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    ask_coordinator,
    note,
    print_json,
    print_table,
    time_text,
)
from logstore.base.errors import InvalidArgumentError
from logstore.meta.records import SettingValue
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from sharder.tuning import tunable, tunables

planner = typer.Typer(
    help="The planner's weights, thresholds and limits, while it runs.", no_args_is_help=True
)
By = Annotated[
    str | None, typer.Option(help="Kept in the history; default: your user name and host.")
]


def register(app: typer.Typer) -> None:
    app.add_typer(planner, name="planner")


@planner.command("get")
def get(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: all.")
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show settings of the planner as they act now, with unit, bounds and origin.

    With NAMEs also what each does.

    Example: logstore planner get risk.threshold
    """
    wanted = [_full(name) for name in names or ()]
    found = _get(address)
    rows = [row for row in found.settings if not wanted or row.name in wanted]
    if as_json:
        print_json(rows)
        return
    _print_rows(rows)
    for name in wanted:
        typer.echo(f"{name}: {tunables()[name].says}")
    _tell(found)


@planner.command("set")
def set_(
    settings: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="One or several.")],
    by: By = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Set settings of the planner for the next plan and, kept in the metadata, for every later one.

    They go before the coordinator's own settings (`up --set`), until `planner reset`.

    Example: logstore planner set risk.threshold=0.7 risk.move_cost_per_gib=2
    """
    values: dict[str, object] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"setting is {text!r}, expected NAME=VALUE")
        if _full(name) in values:
            raise InvalidArgumentError(f"{_full(name)} is given twice")
        values[_full(name)] = value
    _change(address, values, [], by, as_json)


@planner.command("reset")
def reset(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that was set.")] = False,
    by: By = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Return settings to what the coordinator started with, or to their defaults.

    Example: logstore planner reset risk.threshold
    """
    if bool(names) is everything:
        raise InvalidArgumentError("names and --all: give one of them")
    wanted = [_full(name) for name in names or ()]
    if everything:
        wanted = [row.name for row in _get(address).settings if row.source == "live"]
        if not wanted:
            print_json([]) if as_json else typer.echo("nothing was set")
            return
    _change(address, {}, wanted, by, as_json)


@planner.command("history")
def history(address: Address = ADDRESS, as_json: AsJson = False) -> None:
    """Show who changed which setting when, oldest first.

    Example: logstore planner history
    """
    changes = _get(address, history=True).changes or []
    if as_json:
        print_json(changes)
        return
    print_table(
        "Changes of the planner's settings",
        ("when", "by", "setting", "old", "new", "how"),
        [_changed(c) for c in changes],
    )


def _full(name: str) -> str:
    """The full name of a setting, which need not ask a coordinator."""
    try:
        return tunable(name).name
    except ValueError as e:
        raise InvalidArgumentError(str(e)) from None


def _get(address: str, *, history: bool = False) -> PlannerSettings:
    request = pb.GetPlannerRequest(history=history)
    return ask_coordinator(address, "GetPlanner", request, PlannerSettings, "Plans")


def _change(
    address: str,
    values: Mapping[str, object],
    resets: Sequence[str],
    by: str | None,
    as_json: bool,
) -> None:
    request = pb.SetPlannerRequest(
        values_json=msgspec.json.encode(values), resets=resets, by=user() if by is None else by
    )
    found = ask_coordinator(address, "SetPlanner", request, PlannerSettings, "Plans")
    if as_json:
        print_json(found.settings)
        return
    _print_rows(found.settings)
    _tell(found)


def user() -> str:
    """Who runs this command, for histories."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        name = "unknown"
    return f"{name}@{socket.gethostname()}"


def _tell(found: PlannerSettings) -> None:
    if found.problem:
        note(f"what was set does not count: {found.problem}")


def _print_rows(rows: Sequence[PlannerSetting]) -> None:
    print_table(
        "Settings of the planner",
        ("setting", "value", "unit", "bounds", "from", "without it"),
        [
            (
                row.name, _shown(row.value), row.unit, row.bounds, _origin(row),
                _shown(row.at_start) if row.source == "live" else "",
            )
            for row in rows
        ],
    )  # fmt: skip


def _origin(row: PlannerSetting) -> str:
    if row.source == "live":
        return f"set by {row.by}, {time_text(row.at_us)}"
    return "the coordinator's start" if row.source == "start" else "default"


def _changed(c: PlannerChange) -> tuple[object, ...]:
    how = "reset" if c.reset else "set"
    return (time_text(c.at_us), c.by, c.name, _shown(c.old), _shown(c.new), how)


def _shown(value: SettingValue) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:.10g}" if isinstance(value, float) else str(value)
