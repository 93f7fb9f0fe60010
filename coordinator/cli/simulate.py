"""`logstore simulate`: the planner and other rules over a recorded load, in a model."""

import csv
import hashlib
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

import profiler.forecast
from coordinator.cli.common import AsJson, note, out, print_json, print_table
from coordinator.cli.files import check_head, headed_rows, named, open_text, weight_of
from coordinator.cli.times import Tell, TimeReader, filled, no_notes, slots_of
from coordinator.limits import span
from logstore.base.errors import InvalidArgumentError
from sharder.settings import limits_of
from sharder.simulate.cluster import Settings
from sharder.simulate.forecasts import Forecasts, Learned, learn
from sharder.simulate.planned import HORIZON, outlook_slots
from sharder.simulate.run import POLICIES, Scenario, auto_capacity, simulate
from sharder.simulate.series import Series, daily_autocorrelation, from_events

_LIMITS = limits_of(Settings)
ROOM = 1.3
"""`auto` capacity: this many times the 99.9 % load, divided by the instances."""
_COLUMNS = (
    "policy", "overloaded", "share", "slo slots", "moves", "splits", "flips", "worst", "lead s",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    app.command("simulate")(simulate_command)


def simulate_command(
    series: Annotated[
        Path | None,
        typer.Option(help="Wide CSV (.gz too): time or slot, then one column per key range."),
    ] = None,
    events: Annotated[
        Path | None, typer.Option(help="CSV or Parquet of time_s,key,op,size instead.")
    ] = None,
    slot_s: Annotated[
        float | None, typer.Option(**span(_LIMITS["slot_s"].interval), help="Seconds of a slot.")
    ] = None,
    instances: Annotated[
        int, typer.Option(**span(_LIMITS["instances"].interval), help="Instances, all alike.")
    ] = 6,
    capacity: Annotated[
        str, typer.Option(help="Operations per slot of an instance; auto, or auto:X for X x.")
    ] = "auto",
    move_slots: Annotated[
        int, typer.Option(**span(_LIMITS["move_slots"].interval), help="Slots that a move takes.")
    ] = 2,
    warm_up: Annotated[
        int | None,
        typer.Option(min=1, max=10_000_000, help="First slots, history only; default 3 tenths."),
    ] = None,
    policies: Annotated[str, typer.Option(help="all, or names with commas.")] = "all",
    seed: Annotated[int, typer.Option(min=0, help="For the weights of the sub-ranges.")] = 0,
    cache: Annotated[
        Path | None,
        typer.Option(envvar="LOGSTORE_FORECAST_CACHE", help="Folder for learned forecasts."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare planners over a recorded load: overloaded slots, moves, bytes, lead time.

    Each column has 16 sub-ranges of zipf weights. A move takes --move-slots and adds 15 % of the
    shard's load to both sides. Forecasts are learned once and kept in --cache.

    Example: logstore simulate --series flights.csv --slot-s 900 --instances 6 --seed 1 --json
    """
    if (series is None) == (events is None):
        raise InvalidArgumentError("give either --series or --events")
    if cache is not None and cache.exists() and not cache.is_dir():
        raise InvalidArgumentError(f"--cache {cache} is no folder")
    try:
        if series:
            load = read_series(series, slot_s, note)
        else:
            load = read_events(_path(events), slot_s or 60.0, note)
        first = warm_up if warm_up is not None else max(1, len(load.loads) * 3 // 10)
        settings = Settings(
            instances=instances,
            capacity=_capacity(load, instances, capacity),
            slot_s=load.slot_s,
            move_slots=move_slots,
            seed=seed,
        )
        names = POLICIES if policies == "all" else tuple(policies.split(","))
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), console=out, transient=True,
            disable=as_json or not out.is_terminal,
        ) as shown:  # fmt: skip
            task = shown.add_task("learning forecasts")
            ahead = outlook_slots(load)
            said: Forecasts = cached_forecasts(load, first, ahead, cache or _cache_folder())
            scenario = Scenario(load, settings, first, said)
            found = simulate(
                scenario, names, lambda name: shown.update(task, description=f"policy {name}")
            )
    except ValueError as e:
        raise InvalidArgumentError(str(e)) from e
    results = {name: asdict(metrics) for name, metrics in found.items()}
    if as_json:
        given = {
            "series": str(series or events), "slots": len(load.loads), "warm_up_slots": first,
            "columns": len(load.names), "horizon_slots": HORIZON, "outlook_slots": ahead,
            "policies": list(names),
            "capacity_given": capacity, "daily_autocorrelation": daily_autocorrelation(load),
            **asdict(settings),
        }  # fmt: skip
        print_json({"inputs": given, "policies": results})
        return
    print_table(f"{len(load.loads) - first} slots of {load.slot_s:g} s", _COLUMNS, _rows(results))


def _rows(results: dict[str, dict[str, Any]]) -> list[list[object]]:
    keys = (
        "overloaded_instance_slots", "overloaded_share", "slo_slots", "moves", "splits",
        "flip_flops", "worst_slot", "lead_s",
    )  # fmt: skip
    return [[name, *(m[key] for key in keys)] for name, m in results.items()]


def read_series(path: Path, slot_s: float | None, tell: Tell = no_notes) -> Series:
    """A wide CSV. Without `slot_s` its length is that of the first column's times (ISO or seconds),
    all of which are read: see `times.slots_of`.

    ValueError that names the line and the column of what is not a number; InvalidArgumentError for
    times that make no slots.
    """
    with _open(path) as file:
        rows = csv.reader(file)
        head = next(rows, [])
        check_head(path, head, "a time or slot and key ranges")
        if len(head) < 2:
            raise ValueError(f"{path}: the first line must name a time or slot and key ranges")
        times: list[str] = []
        loads: list[list[float]] = []
        for number, row in enumerate(rows, 2):
            if len(row) != len(head):
                raise ValueError(f"{path}, line {number}: {len(row)} fields, not {len(head)}")
            times.append(row[0])
            cells = zip(head[1:], row[1:], strict=True)
            loads.append([_number(path, number, name, value) for name, value in cells])
    if not loads:
        raise ValueError(f"{path} holds no slots")
    slots = slots_of(path, head[0], times, slot_s, tell)
    return Series(tuple(head[1:]), filled(slots, np.array(loads, dtype=np.float64)), slots.step_s)


def read_events(path: Path, slot_s: float, tell: Tell = no_notes) -> Series:
    """Single events `time_s,key,…` in any order, as 64 key ranges of equally many keys; with a
    column `weight` a row stands for so many events."""
    reader = TimeReader()
    times, keys, weights = [], [], []
    for number, (time_s, key, weight) in headed_rows(path, ("time_s", "key"), ("weight",)):
        line = f"{named(path)}, line {number}"
        times.append(reader.seconds(f"{line}: time_s", time_s))
        keys.append(key)
        weights.append(weight_of(line, weight))
    reader.say(tell, named(path))
    _, rank = np.unique(np.array(keys), return_inverse=True)
    return from_events(np.array(times), rank.astype(np.int64), slot_s, weight=np.array(weights))


def cached_forecasts(load: Series, first: int, horizon: int, folder: Path) -> Learned:
    """The result of `learn`, kept under a name of the load, the slots and the profiler's code."""
    digest = hashlib.blake2b(load.loads.tobytes(), digest_size=12)
    digest.update(repr((load.names, load.slot_s, first, horizon)).encode())
    for source in sorted(Path(profiler.forecast.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    path = folder / f"{digest.hexdigest()}.npz"
    if path.is_file():
        with np.load(path) as held:
            return Learned(first, held["mean"], held["sigma"])
    learned = learn(load, first, horizon)
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(part, mean=learned.mean, sigma=learned.sigma)
    part.replace(path)
    return learned


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "logstore-forecasts"


def _capacity(load: Series, instances: int, given: str) -> float:
    name, _, room = given.partition(":")
    try:
        stated = float(room or ROOM if name == "auto" else given)
    except ValueError:
        raise ValueError(f"capacity is {given!r}, it must be auto, auto:X or a number") from None
    return auto_capacity(load, instances, stated) if name == "auto" else stated


def _open(path: Path) -> Any:
    return open_text(path)


def _path(path: Path | None) -> Path:
    assert path is not None
    return path


def _number(path: Path, line: int, column: str, value: str) -> float:
    try:
        found = float(value)
    except ValueError:
        raise ValueError(f"{path}, line {line}, {column}: {value!r} is not a number") from None
    if not 0 <= found < math.inf:
        raise ValueError(f"{path}, line {line}, {column}: {value!r} is no load, at least 0")
    return found
