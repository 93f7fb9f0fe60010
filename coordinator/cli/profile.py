"""`logstore heatmap`, `forecast`, `plan`, `autopilot`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from msgspec import UNSET, UnsetType
from msgspec.structs import asdict, replace

import sharder.plan
from coordinator.answers.base import decode
from coordinator.answers.plans import (
    AutopilotMode,
    PlanAnswer,
    PlanFields,
    PlannedOperator,
    plan_fields,
)
from coordinator.answers.statistics import (
    ForecastAnswer,
    Heatmap,
    ModelScore,
)
from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    Coordinator,
    ask_coordinator,
    check_writable,
    print_json,
    print_table,
    run,
)
from coordinator.cli.story import expected_text
from logstore.base.errors import InvalidArgumentError
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from profiler.forecast.book import HORIZON_SLOTS_MAX
from profiler.heatmap import strip_of
from sharder.view import load_view

ROWS_SHOWN = 24
UNUSUAL_SHOWN = 20
MODELS_SHOWN = 3


class Replayed(PlanFields, frozen=True, kw_only=True):
    """The plan for a stored view. `autopilot`: `replay`."""

    autopilot: str
    explain: list[str] | UnsetType = UNSET


def register(app: typer.Typer) -> None:
    app.command("heatmap")(heatmap)
    app.command("forecast")(forecast)
    app.command("plan")(plan)
    app.command("autopilot")(autopilot)


def heatmap(
    name: Annotated[str, typer.Argument(metavar="LOG", help="Name of the log.")],
    png: Annotated[Path | None, typer.Option(help="Write a picture to this file.")] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show which keys are hot when: one line a slot, keys from left to right.

    Example: logstore heatmap orders --png heat.png
    """

    async def work() -> pb.JsonResponse:
        async with Coordinator(address) as coordinator:
            request = pb.HeatmapRequest(log=name, png=png is not None)
            answer: pb.JsonResponse = await coordinator.call("Statistics", "Heatmap", request)
            return answer

    if png is not None:
        check_writable("--png", png)
    answer = run(work())
    if png is not None:
        png.write_bytes(answer.png)
    found = decode(answer.json, Heatmap)
    if as_json:
        print_json(found)
        return
    labels = found.labels
    typer.echo(f"keys {labels[0] if labels else ''!r} … {labels[-1] if labels else ''!r}")
    for slot, counts in list(zip(found.slots, found.counts, strict=True))[-ROWS_SHOWN:]:
        so_far = found.closed_slot is None or slot > found.closed_slot
        count = f"{sum(counts):,.0f}{' so far' if so_far and any(counts) else ''}"
        typer.echo(f"{slot:>10} {strip_of(counts)} {count}")
    if png is not None:
        typer.echo(f"wrote {png}")


def forecast(
    shard: Annotated[str | None, typer.Argument(help="Default: every shard.")] = None,
    horizon: Annotated[
        int, typer.Option(min=0, max=HORIZON_SLOTS_MAX, help="Slots ahead; 0: the coordinator's.")
    ] = 0,
    score: Annotated[
        bool, typer.Option("--score", help="How well each model did, by slots ahead.")
    ] = False,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show the forecast load of shards, with intervals; or scores of forecasts.

    Example: logstore forecast orders/0 --horizon 12
    """

    request = pb.ForecastRequest(shard=shard or "", horizon_slots=horizon, score=score)
    found = ask_coordinator(address, "Forecast", request, ForecastAnswer, "Statistics")
    if as_json:
        print_json(found)
        return
    if score:
        _print_score(found.score or {}, shard or "all shards")
        return
    for name, forecast in found.forecasts.items():
        columns = zip(
            forecast.horizon_slots, forecast.mean, forecast.lower80, forecast.upper80,
            forecast.lower95, forecast.upper95, forecast.model, strict=True,
        )  # fmt: skip
        print_table(
            f"{name}: operations per slot of {found.slot_s:g} s, from slot "
            f"{forecast.made_at_slot} on ({forecast.learned_slots} slots learned)",
            ("slots ahead", "mean", "lower 80 %", "upper 80 %", "lower 95 %", "upper 95 %",
             "model"),
            list(columns),
        )  # fmt: skip
    if not found.forecasts:
        typer.echo("nothing is learned yet")
    _print_trends(found)
    if found.anomalies:
        print_table(
            "unusual slots, the newest first (score: how many usual deviations off)",
            ("shard", "slot", "kind", "operations", "expected", "score"),
            [
                (a.shard, a.slot, a.kind, a.value, a.expected, a.score)
                for a in found.anomalies[:UNUSUAL_SHOWN]
            ],
        )
    if found.unwatched_shards:
        typer.echo(f"{found.unwatched_shards} more shards are not watched for unusual slots")


def _print_trends(found: ForecastAnswer) -> None:
    if not found.trends:
        return
    print_table(
        "trend of each shard (operations per slot), and the models in its next forecast",
        ("shard", "moving average", "deviation", "slope", "drift", "models"),
        [
            (name, t.moving_average, t.deviation, t.slope, t.drift, _heaviest(t.weights))
            for name, t in found.trends.items()
        ],
    )


def _heaviest(weights: Mapping[str, float]) -> str:
    """The heaviest models with their weights."""
    ordered = sorted(weights.items(), key=lambda each: -each[1])[:MODELS_SHOWN]
    return ", ".join(f"{name} {100 * weight:.0f} %" for name, weight in ordered)


def _print_score(score: Mapping[str, Mapping[str, ModelScore]], whose: str) -> None:
    print_table(
        f"{whose}: score by model and slots ahead (lower WAPE, pinball and Winkler are better)",
        (
            "model",
            "slots ahead",
            "WAPE",
            "pinball",
            "Winkler 80 %",
            "95 %",
            "covered 80 %",
            "95 %",
            "width 80 %",
            "95 %",
            "scored",
        ),
        [
            (
                model,
                int(horizon),
                s.wape,
                s.pinball,
                s.winkler80,
                s.winkler95,
                s.coverage80,
                s.coverage95,
                s.width80,
                s.width95,
                s.n,
            )
            for model, by_horizon in score.items()
            for horizon, s in by_horizon.items()
        ],
    )


def plan(
    explain: Annotated[
        bool, typer.Option("--explain", help="Every candidate, taken or refused, with its reason.")
    ] = False,
    history: Annotated[bool, typer.Option("--history", help="The last plans of the loop.")] = False,
    view: Annotated[
        Path | None, typer.Option(help="Plan from this stored view instead; asks no coordinator.")
    ] = None,
    save_view: Annotated[
        Path | None, typer.Option(help="Store what the plan was made from, for --view.")
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show the planner's plan for now; nothing is started.

    Example: logstore plan --explain --save-view view.json
    """
    found: PlanAnswer | Replayed
    if view is not None:
        found = _replayed(view, explain)
    else:
        found = _asked(explain, history, save_view, address)
    if as_json:
        print_json(found)
        return
    typer.echo(f"autopilot {found.autopilot}, slot {found.slot}")
    _print_plan(found)


def _asked(explain: bool, history: bool, save_view: Path | None, address: str) -> PlanAnswer:
    request = pb.PlanRequest(explain=explain, history=history, view=save_view is not None)
    found = ask_coordinator(address, "Plan", request, PlanAnswer, "Plans")
    if save_view is not None:
        try:
            save_view.write_bytes(found.view or b"")
        except OSError as e:
            raise InvalidArgumentError(f"--save-view {save_view}: {e.strerror}") from None
    return replace(found, view=UNSET)


def _replayed(path: Path, explained: bool) -> Replayed:
    """The plan for a stored view, in the form of a coordinator's answer."""
    try:
        made = sharder.plan.plan(load_view(path.read_bytes()))
    except OSError as e:
        raise InvalidArgumentError(f"--view {path}: {e.strerror}") from None
    except ValueError as e:
        raise InvalidArgumentError(f"--view {path}: {e}") from None
    sentences = sharder.plan.explain(made) if explained else UNSET
    return Replayed(**asdict(plan_fields(made)), autopilot="replay", explain=sentences)


def _takes(o: PlannedOperator) -> str:
    if isinstance(o.duration_range_s, UnsetType):
        return f"{o.expected_duration_s:.1f} s"
    return expected_text(o.expected_duration_s, *o.duration_range_s)


def _print_plan(found: PlanAnswer | Replayed) -> None:
    print_table(
        "Instances that are going to cross their limit",
        ("instance", "in s", "P", "mean", "upper", "limit", "capacity", "unit", "model", "trigger"),
        [
            (c.instance, c.crossing_s - found.made_at_s, c.probability, c.forecast.mean,
             c.forecast.upper, c.forecast.limit, c.forecast.capacity, c.forecast.unit,
             c.forecast.model, c.trigger)
            for c in found.crossings
        ],
    )  # fmt: skip
    print_table(
        "Planned",
        ("what", "shard", "from", "to", "starts in s", "takes", "gain", "risk",
         "p50 gain ms", "over ops/s", "due", "started"),
        [
            (o.kind, o.shard, o.source, o.target, o.start_s - found.made_at_s,
             _takes(o), o.expected_gain, o.risk, *_latency(o), o.due,
             "by the autopilot" if o.executable else "advice only")
            for o in found.operators
        ],
    )  # fmt: skip
    if found.operators and not any(o.latency for o in found.operators):
        typer.echo("no response time is measured yet: the order is by risk alone")
    for sentence in found.explain or ():
        typer.echo(f"- {sentence}")
    history = found.history if isinstance(found, PlanAnswer) else UNSET
    for note in history or ():
        if note.started or note.skipped:
            typer.echo(f"{note.at_us}: {', '.join(note.started) or note.skipped}")


def _latency(operator: PlannedOperator) -> tuple[float | None, float | None]:
    """Its gain in ms of p50, and over how many operations a second; None: not measured."""
    found = operator.latency
    if isinstance(found, UnsetType):
        return None, None
    return found.before_ms - found.after_ms, found.ops_per_s


def autopilot(
    mode: Annotated[str, typer.Argument(metavar="on|forecast-only|off", help="What to do.")],
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Switch the autopilot: on (start moves), forecast-only (forecast and plan), or off.

    Example: logstore autopilot forecast-only
    """

    request = pb.SetAutopilotRequest(mode=mode)
    found = ask_coordinator(address, "SetAutopilot", request, AutopilotMode, "Plans")
    print_json(found) if as_json else typer.echo(f"autopilot {found.autopilot}")
