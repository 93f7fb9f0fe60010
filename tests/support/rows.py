"""The requirement rows: what each asks for, and the figures that its test measured.

A test of a row calls `record`; `python -m tests.support.rows` writes docs/requirements.md from what
the last runs recorded in build/rows.
"""

import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "rows"
PAGE = ROOT / "docs" / "requirements.md"
BEGIN, END = "<!-- rows:begin -->", "<!-- rows:end -->"

ROWS = {
    "R0.1": "append, read by offset and by key, scan and tail at one instance; dense offsets",
    "R0.2": "named logs cut into key ranges; a versioned map from range to instance",
    "R0.3": "the order of each key survives retries, failover, split, merge, move and rollback",
    "R0.4": "Python clients (async, sync), a command line, and messages for any language",
    "R0.5": "benchmarks beside peers; cluster tests on containers",
    "R1.1": "each instance measures each shard: counts, times, reads, writes, bytes",
    "R1.2": "statistics of shards and the load and capacity of instances can be seen",
    "R1.3": "the planner moves a shard before its instance crosses the threshold",
    "R1.4": "shadowing: both sides take the writes, are compared, and reads shift gradually",
    "R1.5": "a weight makes a shard likelier to move, and an instance likelier to be the target",
    "R2.1": "forecasts read kinds of operation, client groups and metrics of instances",
    "R2.2": "a model per client group; forecasts are distributions over several horizons",
    "R2.3": "a ring places shards and follows the predicted load; few shards move",
    "R2.4": "replicas on different instances and zones; any one may fail",
    "R2.5": "copy-on-write and log shipping as two more ways to move",
    "R2.6": "the client caches the map, reads shards in parallel, and leaves a slow replica",
    "R2.7": "several coordinators share the shards, each with standbys, on a store by consensus",
    "R2.8": "after a move: verified, reads switched, the source's copy deleted",
    "R3.1": "weekday, time of day, announced events; models learn on; every forecast has intervals",
    "R3.2": "a risk score with weights and thresholds that can be set",
    "R3.3": "a plan with source, target, size and time, ordered by risk and latency gained",
    "R3.4": "stages of a move, and a confirmation with its time and the result of the comparison",
    "R4.1": "placement of a key before its first write, remembered for every later access",
    "R4.2": "placement reads live capacity, sizes, schemas and past moves",
    "R4.3": "exponential smoothing, the ARIMA family and a light online model",
    "R4.4": "placement learns from its effect; an instance that goes away gives its share back",
    "R5.1": "a bounded log of accesses by key, with times",
    "R5.2": "a heatmap of key and time in bounded memory",
    "R5.3": "correlation of accesses between groups of keys",
    "R5.4": "averages, deviations, trends, anomalies, drift and clusters, learned as they come",
    "R5.5": "first shards from history; later splits and merges by load",
    "R5.6": "hot keys on faster, more reliable instances; load of a shard by operations and bytes",
    "R5.7": "candidates for a move by access frequency, utilisation and measured round trips",
    "R5.8": "a snapshot and then a feed of changes, directly or through Kafka",
    "R5.9": "requests go to the target with a growing probability, appends by producer",
    "R5.10": "a rollback at any stage, also after the cutover, that loses nothing",
    "R5.11": "consistent during moves; redundant; instances and shards are added while it runs",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """What one test of a row ran and measured."""

    row: str
    command: str
    figure: str


def record(row: str, *, command: str, figure: str) -> None:
    """Keep what a row's test ran and measured, for docs/requirements.md. Raises KeyError."""
    ROWS[row]
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{row}.json"
    path.write_text(json.dumps(asdict(Figure(row, command, figure))), encoding="utf-8")


def tests_of(row: str) -> Iterator[str]:
    """`file::function` of each test that is named by the row, paths from the root."""
    begin = f"test_{row.lower().replace('.', '_')}_"
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if begin not in text:
            continue
        functions = (
            n
            for n in ast.walk(ast.parse(text))
            if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        )
        for node in functions:
            if node.name.startswith(begin):
                yield f"{path.relative_to(ROOT).as_posix()}::{node.name}"


def table() -> str:
    """The table of all rows, in Markdown."""
    lines = ["| row | what | how to see it | measured | test |", "|---|---|---|---|---|"]
    for row, what in ROWS.items():
        path = RESULTS / f"{row}.json"
        found = Figure(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
        command = f"`{found.command}`" if found else "–"
        names = "<br>".join(f"`{name}`" for name in tests_of(row)) or "–"
        measured = found.figure if found else "–"
        lines.append(f'| <a id="{row}"></a>{row} | {what} | {command} | {measured} | {names} |')
    return "\n".join(lines)


def main() -> int:
    """Write the table into the page."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n{table()}\n{END}{tail}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
