"""Figures of one run, the ratios between them, and the budgets that they must meet."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["pass", "short", "not measured"]


@dataclass(slots=True)
class Figures:
    """Per name one value a round, in order, so that round r of two names is a pair."""

    values: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str) -> None:
        known = self.units.setdefault(name, unit)
        if known != unit:
            raise ValueError(f"figure {name} is in {known}, not in {unit}")
        self.values.setdefault(name, []).append(value)

    def cannot(self, name: str, reason: str) -> None:
        """Record why a figure is missing; the table shows it."""
        self.missing[name] = reason

    def median(self, name: str) -> float | None:
        found = self.values.get(name)
        return statistics.median(found) if found else None

    def pair_ratio(self, name: str, base: str) -> float | None:
        """Median of the ratios of the rounds in which both were measured."""
        pairs = zip(self.values.get(name, ()), self.values.get(base, ()), strict=False)
        ratios = [value / against for value, against in pairs if against > 0]
        return statistics.median(ratios) if ratios else None

    def as_json(self) -> dict[str, Any]:
        return {
            name: {"median": self.median(name), "unit": self.units[name], "values": found}
            for name, found in self.values.items()
        }


@dataclass(frozen=True, slots=True)
class Rule:
    """`name` (over `base`, where there is one) must be at least or at most `limit`."""

    budget: str
    what: str
    name: str
    base: str | None
    at_least: bool
    limit: float
    note: str = ""

    @property
    def text(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{sign} {self.limit:g}" + (f" x {self.base}" if self.base else "")


@dataclass(frozen=True, slots=True)
class FigureRow:
    budget: str
    what: str
    required: str
    figure: str
    ratio: float | None
    verdict: Verdict
    note: str


RULES = (
    Rule("B1", "append, no index, vs Kafka's own tool", "append/ours", "append/kafka-perf-test",
         True, 1.5, "Kafka's tool makes keyless records in a warmed-up JVM"),
    Rule("B1", "append, no index, vs aiokafka", "append/ours", "append/aiokafka", True, 10),
    Rule("B1", "append, key index on, vs Kafka's own tool", "append/ours-indexed",
         "append/kafka-perf-test", True, 1),
    Rule("B2", "append, 3 replicas, vs 3 brokers acks=all", "append/ours-3",
         "append/kafka-perf-test-3", True, 1),
    Rule("B3", "append, fsync, vs fdatasync of 2 MiB groups", "append/ours-fsync",
         "limit/group-commit", True, 0.8, "the limit is given in records of the same size"),
    Rule("B3", "append, fsync, vs NATS sync_always", "append/ours-fsync",
         "append/nats-jetstream-sync-always", True, 3),
    Rule("B4", "p99 append latency at half of Kafka's rate", "p99/ours", "p99/kafka", False, 1,
         "ours from the intended start, Kafka's from its actual send"),
    Rule("B5", "single-record append, by RPC, concurrency 1", "rpc/ours-1",
         "unary/echo-1", True, 0.55),
    Rule("B5", "single-record append, by RPC, concurrency 64", "rpc/ours-64",
         "unary/echo-64", True, 0.55),
    Rule("B5", "single-record append() of the client, concurrency 1", "unary/ours-1",
         "unary/echo-1", True, 0.55),
    Rule("B5", "single-record append() of the client, concurrency 64", "unary/ours-64",
         "unary/echo-64", True, 0.55, "the client groups what waits into one batch"),
    Rule("B6", "scan to Arrow, MB/s", "scan/ours", None, True, 500),
    Rule("B6", "scan to Python records vs confluent-kafka", "consume/ours",
         "consume/confluent-kafka", True, 2),
    Rule("B7", "read one key, p99 ms", "read-key-p99/ours", None, False, 3),
    Rule("B7", "appends with the index vs without", "append/ours-indexed", "append/ours",
         True, 0.8),
    Rule("B7", "key index behind the log end, s", "index-backlog/ours", None, False, 10),
)  # fmt: skip


def budget_rows(figures: Figures, rules: tuple[Rule, ...] = RULES) -> list[FigureRow]:
    """One row per rule. A missing figure is `not measured`, with the reason."""
    rows = []
    for rule in rules:
        value = figures.median(rule.name)
        ratio = figures.pair_ratio(rule.name, rule.base) if rule.base else None
        judged = ratio if rule.base else value
        if judged is None:
            lacks = rule.name if value is None else str(rule.base)
            reason = figures.missing.get(lacks, f"{lacks} was not part of this run")
            rows.append(
                FigureRow(rule.budget, rule.what, rule.text, "-", None, "not measured", reason)
            )
            continue
        good = judged >= rule.limit if rule.at_least else judged <= rule.limit
        shown = f"{value:,.4g} {figures.units[rule.name]}" if value is not None else "-"
        note = "; ".join(part for part in (rule.note, figures.missing.get(rule.name)) if part)
        rows.append(
            FigureRow(
                rule.budget, rule.what, rule.text, shown, ratio, "pass" if good else "short", note
            )
        )
    return rows


def rows_json(rows: list[FigureRow]) -> list[Mapping[str, Any]]:
    return [asdict(row) for row in rows]
