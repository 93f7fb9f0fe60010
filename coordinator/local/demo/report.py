"""The demo's report: figures computed from what was measured, and the checks on them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from coordinator.local.demo.drive import Driver, Spans
from coordinator.local.demo.scene import SLOT_S, WALL_S_PER_SLOT, Scene
from coordinator.local.demo.watch import Watch
from coordinator.migration.records import Phase, State

RECORDS_MIN = 200_000


@dataclass(slots=True)
class Throttle:
    """Refused operations of a cluster over the replay: (seconds, total so far)."""

    points: list[tuple[float, int]] = field(default_factory=list)

    def add(self, at_s: float, total: int) -> None:
        self.points.append((at_s, total))

    def between(self, since_s: float = 0.0, until_s: float = np.inf) -> int:
        """Refused in the span, as far as it was read."""
        before = [total for at, total in self.points if at <= since_s]
        upto = [total for at, total in self.points if at <= until_s]
        return (upto[-1] if upto else 0) - (before[-1] if before else 0)


@dataclass(slots=True)
class Outcome:
    """The data of a run for its report. `plain_*`: the cluster without autopilot, if it ran."""

    seed: int
    scene: Scene
    watch: Watch
    driver: Driver
    acked: int
    errors: int
    first_error: str
    verdict: dict[str, Any]
    throttle: Throttle
    autopilot: bool
    plain_driver: Driver | None = None
    plain_throttle: Throttle | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def slot_loads(outcome: Outcome) -> npt.NDArray[np.float64]:
    """Operations sent, [shard, slot of the replay]."""
    scene, replay = outcome.scene, outcome.driver.replay
    keys = outcome.driver.events["key"].to_pylist()
    shard = scene.shards_of(keys)[replay.row]
    slot = (replay.at_s / WALL_S_PER_SLOT).astype(np.int64)
    loads = np.zeros((len(scene.homes), int(slot.max()) + 1))
    np.add.at(loads, (shard, slot), 1.0)
    return loads


def migrations_of(outcome: Outcome) -> list[dict[str, Any]]:
    """Each migration with `lead_s`, from the actual loads.

    The counterfactual: the load of all shards that were at the source when the move began, had they
    stayed. `crossing_s` is the start of the first slot from then on in which it is above the limit
    (threshold x capacity), `lead_s` how long before that the cutover was done. None: it never
    crossed, or the move was not done.
    """
    loads = slot_loads(outcome)
    homes = {i: f"instance-{home + 1}" for i, home in enumerate(outcome.scene.homes)}
    found = []

    def at_s(phase: Phase) -> float:
        return round((phase.at_us - outcome.driver.begin_us) / 1e6, 3)

    for migration in outcome.watch.migrations:
        begin_s = (migration.created_us - outcome.driver.begin_us) / 1e6
        phases = [{"state": p.state, "at_s": at_s(p)} for p in migration.phases]
        done = [at_s(p) for p in migration.phases if p.state is State.SOAKING]
        stayed = loads[[i for i, home in homes.items() if home == migration.source]].sum(axis=0)
        first = max(0, int(begin_s / WALL_S_PER_SLOT))
        over = np.flatnonzero(stayed[first:] > outcome.scene.limit * WALL_S_PER_SLOT)
        crossing_s = (first + int(over[0])) * WALL_S_PER_SLOT if len(over) else None
        lead_s = crossing_s - done[0] if done and crossing_s is not None else None
        kept = msgspec.to_builtins(migration)
        found.append(
            {
                **{
                    name: kept[name]
                    for name in (
                        "id", "shard", "source", "target", "strategy", "state", "trigger",
                        "reason", "risk", "forecast", "bytes", "copy_mb_per_s", "blackout_ms",
                        "hash_equal", "cause",
                    )
                },
                "begin_s": round(begin_s, 3),
                "crossing_s": crossing_s,
                "counterfactual_peak_ops_per_s": float(stayed[first : first + 24].max()),
                "lead_s": None if lead_s is None else round(lead_s, 3),
                "lead_event_s": None
                if lead_s is None
                else round(lead_s / WALL_S_PER_SLOT * SLOT_S, 1),
                "duration_s": migration.duration_s,
                "p99_ms": migration.p99_ms,
                "phases": phases,
            }
        )  # fmt: skip
        if migration.state is State.COMPLETED:
            homes[int(migration.shard.rpartition("/")[2])] = migration.target
    return found


def spans(migrations: Sequence[dict[str, Any]]) -> dict[str, Spans]:
    """Before the first move, during any of them, and after the first between moves; in
    seconds of the replay.
    """
    if not migrations:
        return {"before": [(0.0, np.inf)]}
    during = sorted((m["begin_s"], m["phases"][-1]["at_s"]) for m in migrations)
    after, at = [], during[0][1]
    for begin, end in during[1:]:
        if begin > at:
            after.append((at, begin))
        at = max(at, end)
    return {"before": [(0.0, during[0][0])], "during": during, "after": [*after, (at, np.inf)]}


def latencies(driver: Driver, reads: bool, when: dict[str, Spans]) -> dict[str, Any]:
    return {name: driver.percentiles(reads, span) for name, span in when.items()}


def build(outcome: Outcome) -> dict[str, Any]:
    """The report as JSON types."""
    driver, verdict = outcome.driver, outcome.verdict
    moves = migrations_of(outcome)
    when = spans(moves)
    report: dict[str, Any] = {
        "seed": outcome.seed,
        "autopilot": outcome.autopilot,
        "records_acked": outcome.acked,
        "records_in_log": verdict.get("in_log"),
        "lost": verdict.get("lost"),
        "duplicated": verdict.get("duplicated"),
        "out_of_order": verdict.get("out_of_order"),
        "changed": verdict.get("changed"),
        "errors_seen_by_clients": outcome.errors,
        "first_error": outcome.first_error,
        "append_ms": latencies(driver, False, when),
        "read_ms": latencies(driver, True, when),
        "throttled": throttled_of(outcome, when),
        "migrations": moves,
        "forecast_score": _score(outcome.watch),
        "forecast_against_what_came": against(outcome),
        "capacity": {
            "ops_per_s": outcome.scene.ops_per_s,
            "bytes_per_s": outcome.scene.bytes_per_s,
            "limit_ops_per_s": outcome.scene.limit,
        },
        "shards": {
            "split_keys": [cut.decode() for cut in outcome.scene.cuts],
            "first_instances": [f"instance-{home + 1}" for home in outcome.scene.homes],
            "hot_instance": f"instance-{outcome.scene.hot + 1}",
        },
        "replay": {
            "hours": driver.replay.hours,
            "operations": len(driver.replay.at_s),
            "sent_late_s_max": round(driver.late_s_max, 3),
        },
        "seconds": {name: round(value, 2) for name, value in outcome.seconds.items()},
    }
    if outcome.plain_driver is not None:
        report["without_autopilot"] = {
            "append_ms": latencies(outcome.plain_driver, False, when),
            "read_ms": latencies(outcome.plain_driver, True, when),
        }
    report["checks"] = checks(report)
    return report


def _score(watch: Watch) -> Any:
    """The models' scores, on request."""
    return watch.forecast.score or {} if watch.forecast is not None else {}


def throttled_of(outcome: Outcome, when: dict[str, Spans]) -> dict[str, Any]:
    """Operations that admission refused (clients waited and sent again), with and without."""
    ran = {
        "with_autopilot": outcome.throttle if outcome.autopilot else None,
        "without_autopilot": outcome.plain_throttle if outcome.autopilot else outcome.throttle,
    }
    after = when.get("after")
    return {
        **{name: None if t is None else t.between() for name, t in ran.items()},
        "after_the_move": None
        if after is None
        else {name: None if t is None else t.between(after[0][0]) for name, t in ran.items()},
    }


def against(outcome: Outcome) -> dict[str, Any]:
    """Forecasts made AHEAD_SLOTS before, of each shard and slot, compared with actual values."""
    watch = outcome.watch
    pairs = [(said, watch.came[at]) for at, said in watch.said.items() if at in watch.came]
    total = sum(came for _, came in pairs)
    return {
        "scored": len(pairs),
        "wape": sum(abs(s.mean - c) for s, c in pairs) / total if total else None,
        "covered_80": sum(s.lower <= c <= s.upper for s, c in pairs) / len(pairs)
        if pairs
        else None,
    }


def checks(report: dict[str, Any]) -> dict[str, bool]:
    """The checks for exit status 0."""
    found = {
        "records_acked": report["records_acked"] >= RECORDS_MIN,
        "all_read_back": report["records_in_log"] == report["records_acked"],
        "no_client_error": report["errors_seen_by_clients"] == 0,
        **{
            f"none_{name}": report[name] == 0
            for name in ("lost", "duplicated", "out_of_order", "changed")
        },
    }
    moves = report["migrations"]
    if not report["autopilot"]:
        return found | {"no_migration": not moves}
    ahead = [
        m
        for m in moves
        if m["trigger"] == "forecast" and m["state"] == "completed" and (m["lead_s"] or 0.0) > 0
    ]
    hours = report["replay"]["hours"] * WALL_S_PER_SLOT
    throttled = report["throttled"]["after_the_move"] or {}
    return found | {
        "moved_before_its_peak": bool(ahead),
        # A switch copies nothing: both copies were in sync all the time.
        "chains_equal": bool(moves)
        and all(
            m["hash_equal"] or m["strategy"] == "switch" or m["state"] != "completed" for m in moves
        ),
        "went_on_past_the_peak": any(m["crossing_s"] + 12 < hours for m in ahead),
        "less_throttled_after_the_move": bool(throttled)
        and throttled["with_autopilot"] < throttled["without_autopilot"],
    }


def summary(report: dict[str, Any]) -> list[str]:
    """The last lines of the demo."""
    lines = []
    for m in report["migrations"]:
        f = m["forecast"]
        said = (
            f"forecast {f['mean']:.1f} ops/s [{f['lower']:.1f}, {f['upper']:.1f}] in "
            f"{f['horizon_s']:.0f} s" if f else "no forecast"
        )  # fmt: skip
        at = {p["state"]: p["at_s"] for p in m["phases"]}
        how = f"blackout {m['blackout_ms'] or 0.0:.1f} ms"
        if m["strategy"] == "switch":
            how = f"nothing copied (it was in sync), {how}"
        else:
            ramped = at.get("cutover", 0.0) - at.get("ramping", 0.0)
            how = f"ramp {ramped:.1f} s, {how}, chains equal: {m['hash_equal']}"
        lead = (
            "never crossed" if m["lead_s"] is None else f"{m['lead_s']:.1f} s before the crossing"
        )
        lines += [
            f"{m['id']}: {m['shard']} {m['source']} → {m['target']}, {m['state']}, {lead}; {said}",
            f"    reason: {m['reason']}",
            f"    {m['bytes'] / 1e6:.1f} MB, {how}",
        ]
    for name in ("append_ms", "read_ms"):
        rates = [
            f"{span} p50 {p['p50']:.1f} p99 {p['p99']:.1f} p99.9 {p['p999']:.1f}"
            for span, p in report[name].items()
            if p
        ]
        lines.append(f"{name}: {'; '.join(rates)}")
    throttled = report["throttled"]
    lines.append(
        f"throttled: {throttled['with_autopilot']} with autopilot, "
        f"{throttled['without_autopilot']} without (same stream, same time); after the move "
        f"{_counts(throttled['after_the_move'])}"
    )
    lines.append(
        f"{report['records_acked']:,} records acked: {report['lost']} lost, "
        f"{report['duplicated']} duplicated, {report['out_of_order']} out of order; "
        f"{report['errors_seen_by_clients']} errors seen by clients"
    )
    failed = [name for name, holds in report["checks"].items() if not holds]
    lines.append(f"FAILED: {', '.join(failed)}" if failed else "all checks hold")
    return lines


def _counts(after: dict[str, int] | None) -> str:
    return "none" if after is None else f"{after['with_autopilot']}, {after['without_autopilot']}"
