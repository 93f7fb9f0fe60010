"""The table of a run of moves: figures of each strategy and feed, and budget B8 for them."""

import json
from pathlib import Path

import numpy as np

from bench.figures import FigureRow, Figures, Rule, budget_rows
from bench.moves.probe import ProbeSamples
from bench.services.base import ServiceError
from coordinator.migration.answers import Migration
from coordinator.migration.table import STRATEGIES

FEEDS = ("direct", "kafka")
NO_FEED = ("switch",)
"""Strategies that copy nothing."""
PEER = "kafka-reassignment"
IDLE = "idle"
THROTTLE = "throttle"
WINDOWS = ("before", "during", "after")


def strategy_parts() -> list[str]:
    """`switch`, `shadow/direct`, `shadow/kafka` and so on: every strategy with every feed."""
    return [s if s in NO_FEED else f"{s}/{feed}"
            for s in STRATEGIES for feed in FEEDS[: 1 if s in NO_FEED else 2]]  # fmt: skip


def add_windows(figures: Figures, name: str, seen: ProbeSamples, times: list[float]) -> None:
    """Of one move: `times` are the edge before it, its start, its end, the edge after it."""
    add = figures.add
    for when, start_s, stop_s in zip(WINDOWS, times, times[1:], strict=False):
        appends = seen.window(start_s, stop_s)
        add(f"append-p99-{when}/{name}", appends.p99_ms, "ms")
        if when == "during":
            add(f"blackout/{name}", appends.longest_gap_ms, "ms")
        if when == "before":
            add(f"gap-before/{name}", appends.longest_gap_ms, "ms")
        if len(seen.reads[0]):
            reads = seen.window(start_s, stop_s, "reads")
            add(f"read-p99-{when}/{name}", reads.p99_ms, "ms")
    add(f"move/{name}", times[2] - times[1], "s")


def add_calls(figures: Figures, name: str, seen: ProbeSamples) -> None:
    """How many calls the probe made and how many failed, over its whole time."""
    made = len(seen.appends[0]) + len(seen.reads[0])
    failed = np.isnan(seen.appends[1]).sum() + np.isnan(seen.reads[1]).sum()
    figures.add(f"calls/{name}", float(made), "calls")
    figures.add(f"failed/{name}", float(failed), "calls")


def add_record(figures: Figures, name: str, record: Migration) -> None:
    """Figures of a move's own record: how long appends were held, the copy's rate, equality."""
    if record.blackout_ms is not None:
        figures.add(f"held/{name}", float(record.blackout_ms), "ms")
    if name in NO_FEED:
        return
    if record.copy_mb_per_s:
        figures.add(f"copy-under-load/{name}", float(record.copy_mb_per_s), "MB/s")
    figures.add(f"hash-equal/{name}", float(record.hash_equal is True), "of 1")


def add_worst(figures: Figures) -> None:
    """The worst of all moves of a name: the blackout; whether every pair of chains was equal."""
    for name in [n for n in figures.values if n.startswith("blackout/")]:
        figures.values[f"blackout-max/{name.removeprefix('blackout/')}"] = [
            max(figures.values[name])
        ]
        figures.units[f"blackout-max/{name.removeprefix('blackout/')}"] = "ms"
    for name in [n for n in figures.values if n.startswith("hash-equal/")]:
        worst = f"all-equal/{name.removeprefix('hash-equal/')}"
        figures.values[worst] = [min(figures.values[name])]
        figures.units[worst] = "of 1"


def _rules(name: str) -> list[Rule]:
    found = [
        Rule("B8", f"blackout p50, {name}", f"blackout/{name}", None, False, 50,
             "seen by the client, with what the machine itself makes"),
        Rule("B8", f"blackout max, {name}", f"blackout-max/{name}", None, False, 50),
        Rule("B8", f"append p99 during, {name}", f"append-p99-during/{name}",
             f"append-p99-before/{name}", False, 1.2),
        Rule("B8", f"failed calls, {name}", f"failed/{name}", None, False, 0),
    ]  # fmt: skip
    if name not in NO_FEED and name != PEER:
        found += [
            Rule("B8", f"copy under load, {name}", f"copy-under-load/{name}", None, True, 20),
            Rule("B8", f"chains equal, {name}", f"all-equal/{name}", None, True, 1),
        ]
    return found


def budget(figures: Figures) -> list[FigureRow]:
    """Budget B8 for every strategy and feed; Kafka's reassignment judged by the same limits."""
    add_worst(figures)
    measured = [name.removeprefix("move/") for name in figures.values if name.startswith("move/")]
    names = list(dict.fromkeys([*strategy_parts(), *(n for n in measured if n != PEER)]))
    rules = [rule for name in names for rule in _rules(name)]
    rules += [
        Rule("B8", f"idle copy vs a file copy, {feed}", f"copy-idle/{feed}",
             "limit/file-copy", True, 0.6)
        for feed in FEEDS
    ]  # fmt: skip
    rules += [
        Rule("peer", rule.what, rule.name, rule.base, rule.at_least, rule.limit)
        for rule in _rules(PEER)
    ]
    return budget_rows(figures, tuple(rules))


def merge(into: Figures, path: Path) -> None:
    """Add the figures of an earlier run's `--json`; this one's win where both have a name."""
    try:
        found = json.loads(path.read_text())
        for name, entry in found["figures"].items():
            into.values[name], into.units[name] = entry["values"], entry["unit"]
        into.missing.update(found["notes"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ServiceError(f"{path} is not what `bench migrate --json` printed: {e!r}") from e
