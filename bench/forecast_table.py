"""`python -m bench forecast-table`: the scores of docs/measurements/forecasts.md, on all traces."""

import importlib.resources
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.forecast import evaluate, trimmed
from bench.series import (
    SeriesSet,
    block_series,
    flights_series,
    load_series,
    touch_series,
)

HORIZONS = (1, 6, 12)
LONG_SLOTS = 2_000
SLOW = ("snarimax", "trees")
Scores = dict[str, dict[str, dict[str, dict[str, float]]]]


def sources(traces: Path) -> Iterator[tuple[str, Callable[[], SeriesSet]]]:
    """Name and loader of each set; those whose files are missing are left out."""
    for path in sorted((traces / "nab").glob("*.csv.gz")):
        yield f"nab {path.name.removesuffix('.csv.gz')}", partial(load_series, path)
    web = traces / "wc98" / "requests_per_min.csv.gz"
    if web.is_file():
        yield "wc98 5 min", lambda: load_series(web, 300.0)
        yield "wc98 1 h", lambda: load_series(web, 3600.0)
    for path in sorted((traces / "cloudphysics_volumes").glob("*.csv.gz")):
        name = f"volumes {path.name.removesuffix('.csv.gz')[8:]} 30 min"
        yield name, partial(load_series, path)
    for path in sorted((traces / "azure_llm").glob("*.csv.gz")):
        for slot_s in (1.0, 10.0):
            name = f"azure_llm {path.name.removesuffix('.csv.gz')} {slot_s:g} s"
            yield name, partial(load_series, path, slot_s, events=True)
    yield "flights 15 min", lambda: flights_series(15)
    yield "flights 1 h", lambda: flights_series(60)


def held_out(traces: Path) -> Iterator[tuple[str, Callable[[], SeriesSet]]]:
    """Sets on which nothing was ever tuned: the forecasts met them for the first time in this
    table, and must not be changed for them."""
    yield "flights by destination 1 h", lambda: flights_series(60, 6_000, ("dest",))
    blocks = traces / "cloudphysics_io" / "cloudPhysicsIO.csv.gz"
    if blocks.is_file():
        yield "cloudphysics_io 8 ranges 10 s", partial(block_series, blocks)
    requests = traces / "mooncake" / "conversation_trace.jsonl.gz"
    if requests.is_file():
        yield "mooncake requests 1 s", partial(touch_series, requests, 1.0)
        yield "mooncake requests 10 s", partial(touch_series, requests, 10.0)
    water = importlib.resources.files("river.datasets") / "water-flow.csv"
    yield "water flow 1 h", partial(load_series, Path(str(water)), 3600.0)


def command(
    traces: Annotated[Path, typer.Option(help="folder of the traces")] = Path("../shared/traces"),
    only: Annotated[str, typer.Option(help="only sets whose name has this in it")] = "",
    slots_max: Annotated[int, typer.Option(help="the last so many slots of each")] = 10_000,
    keep: Annotated[Path | None, typer.Option(help="folder of results, one JSON a set")] = None,
    unseen: Annotated[bool, typer.Option(help="the sets on which nothing was tuned")] = False,
    slow: Annotated[bool, typer.Option(help="river's SNARIMAX and trees as well")] = False,
    render: Annotated[bool, typer.Option(help="run nothing, print what is kept")] = False,
) -> None:
    """Score every set of series and print the tables in Markdown."""
    found: dict[str, dict[str, Any]] = {}
    for name, load in (held_out if unseen else sources)(traces):
        file = keep / f"{name.replace(' ', '_')}.json" if keep else None
        if only in name and not render:
            series = trimmed(load(), slots_max)
            scores = evaluate(series, HORIZONS, slow=slow)
            found[name] = {"slots": series.slots, "slot_s": series.slot_s, "scores": scores}
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(found[name]))
            typer.echo(f"{name}: {series.slots} slots x {len(scores)} series", err=True)
        elif file is not None and file.is_file():
            found[name] = json.loads(file.read_text())
    typer.echo("\n".join(markdown(found)))


def markdown(found: dict[str, dict[str, Any]]) -> list[str]:
    """Tables: WAPE by set, targets over all series, losses, intervals."""
    lines = ["## WAPE in %, median over the series of each set", ""]
    lines += ["| set | series x slots | model | 1 | 6 | 12 slots |", "|---|---|---|---|---|---|"]
    for name, kept in found.items():
        scores: Scores = kept["scores"]
        head = f"{name} | {len(scores)} x {kept['slots']}"
        for model in shown(scores):
            cells = [_percent(medians(scores, model, h, "wape")) for h in HORIZONS]
            lines.append(f"| {head} | {model} | " + " | ".join(cells) + " |")
            head = " | "
    return [*lines, "", *verdicts(found), "", *intervals(found)]


def shown(scores: Scores) -> list[str]:
    """The ensemble, the best other model at 6 slots by median, and the simple ones."""
    names = list(next(iter(scores.values())))
    simple = [
        n
        for n in names
        if n in ("last_value", *SLOW) or n.startswith(("seasonal_naive", "holt_winters"))
    ]
    rest = [n for n in names if n not in simple and n != "ensemble"]
    best = min(rest, key=lambda n: medians(scores, n, 6, "wape"))
    return ["ensemble", best, *simple]


def medians(scores: Scores, model: str, horizon: int, key: str) -> float:
    got = [s[model][str(horizon)][key] for s in scores.values() if key in s[model][str(horizon)]]
    return float(np.median(got)) if got else float("nan")


def verdicts(found: dict[str, dict[str, Any]]) -> list[str]:
    """The targets over all series, with the names of the series that miss them."""
    if not any(kept["slots"] >= LONG_SLOTS for kept in found.values()):
        return [f"No set of {LONG_SLOTS} slots: nothing to hold against the targets."]
    lines = ["## Against the targets", "", "| | 1 | 6 | 12 slots |", "|---|---|---|---|"]
    lines.append(
        "| median WAPE over all series: ensemble, best single model | "
        + " | ".join(_overall(found, h) for h in HORIZONS)
        + " |"
    )
    rows: dict[str, list[str]] = {}
    losers: list[str] = []
    for h in HORIZONS:
        ratio_best, ratio_last, covered, winkler, hourly = [], [], [], [], []
        long_winkler: list[list[float]] = []
        for name, kept in found.items():
            for series, models in kept["scores"].items():
                at = {m: s[str(h)] for m, s in models.items() if "wape" in s.get(str(h), {})}
                if "ensemble" not in at or not at["last_value"]["wape"]:
                    continue
                ours = at["ensemble"]
                singles = {m: s["wape"] for m, s in at.items() if _single(m)}
                best = min(singles, key=lambda m: singles[m])
                ratio_best.append(ours["wape"] / max(singles[best], 1e-9))
                seasonal = [s for m, s in at.items() if m.startswith("seasonal_quantiles")]
                if seasonal:
                    winkler.append(
                        [
                            ours[k] / max(min(s[k] for s in seasonal), 1e-9)
                            for k in ("winkler80", "winkler95")
                        ]
                    )
                if kept["slots"] < LONG_SLOTS:
                    continue
                if seasonal:
                    long_winkler.append(winkler[-1])
                ratio_last.append(ours["wape"] / at["last_value"]["wape"])
                covered.append(
                    [ours["coverage80"], ours["coverage95"], ours.get("coverage80_free", 0.8)]
                )
                if "coverage80_hour_min" in ours:
                    hourly.append(
                        [ours[f"coverage80_hour_{k}"] for k in ("min", "max", "max_free")]
                    )
                if ratio_best[-1] > 1.02:
                    losers.append(
                        f"{name} {series} at {h}: {100 * ours['wape']:.2f} % against "
                        f"{100 * singles[best]:.2f} % of {best}"
                    )
        last, cover = np.array(ratio_last), np.array(covered)
        hours = np.array(hourly).reshape(-1, 3)
        score, long_score = np.array(winkler).reshape(-1, 2), np.array(long_winkler).reshape(-1, 2)
        cells = {
            "all: ensemble / best single of each series, median": f"{np.median(ratio_best):.3f}",
            f"series of >= {LONG_SLOTS} slots": f"{len(last)}",
            "… no more than 2 % worse than last value": _share(last <= 1.02),
            "… worst against last value": f"{100 * (last.max() - 1):+.1f} %",
            "… coverage of 80 % (least, median, most)": _spread(cover[:, 0]),
            "… within 3 points": _share(np.abs(cover[:, 0] - 0.8) <= 0.03),
            "… within 3 points, hours of one value (nights of 0) apart": (
                _share(np.abs(cover[:, 2] - 0.8) <= 0.03)
            ),
            "… coverage of 95 % (least, median, most)": _spread(cover[:, 1]),
            "… within 3 points of 95": _share(np.abs(cover[:, 1] - 0.95) <= 0.03),
            "… every hour of day within 8 points of 80": (
                _share((hours[:, 0] >= 0.72) & (hours[:, 1] <= 0.88))
            ),
            "… hours of one value apart": (_share((hours[:, 0] >= 0.72) & (hours[:, 2] <= 0.88))),
            "… no hour of day under 72": _share(hours[:, 0] >= 0.72),
            "all with seasons: Winkler 80 / best seasonal quantiles, median": (
                _median(score[:, 0])
            ),
            "… no worse": _share(score[:, 0] <= 1),
            f"… no worse, series of >= {LONG_SLOTS} slots": (_share(long_score[:, 0] <= 1)),
            "Winkler 95 / best seasonal quantiles, median": _median(score[:, 1]),
            "… no worse at 95": _share(score[:, 1] <= 1),
            f"… no worse at 95, series of >= {LONG_SLOTS} slots": (_share(long_score[:, 1] <= 1)),
        }
        for key, cell in cells.items():
            rows.setdefault(key, []).append(cell)
    lines += [f"| {key} | " + " | ".join(cells) + " |" for key, cells in rows.items()]
    lines += ["", f"## Where we lose (>= {LONG_SLOTS} slots, over 2 % behind the best single)", ""]
    return lines + ([f"- {loser}" for loser in losers] or ["Nowhere."])


def intervals(found: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["## Intervals of the ensemble, median over the series of each set", ""]
    lines.append(
        "| set | slots ahead | coverage 80 | 95 | width 80 | 95 | Winkler 80 | 95 | seasonal |"
    )
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for name, kept in found.items():
        scores: Scores = kept["scores"]
        names = list(next(iter(scores.values())))
        seasonal = [n for n in names if n.startswith("seasonal_quantiles")]
        for h in HORIZONS:
            keys = ("coverage80", "coverage95", "width80", "width95", "winkler80", "winkler95")
            cells = [f"{medians(scores, 'ensemble', h, key):.3f}" for key in keys]
            beside = [
                f"{min(medians(scores, n, h, k) for n in seasonal):.2f}" if seasonal else "–"
                for k in ("winkler80", "winkler95")
            ]
            lines.append(f"| {name} | {h} | " + " | ".join(cells) + f" | {' '.join(beside)} |")
    return lines


def _overall(found: dict[str, dict[str, Any]], horizon: int) -> str:
    """Medians over the series on which a model ran; a model must have run on 4 of 5 to be named."""
    by_model: dict[str, list[float]] = {}
    for kept in found.values():
        for models in kept["scores"].values():
            for model, scores in models.items():
                if "wape" in scores[str(horizon)] and (model == "ensemble" or _single(model)):
                    name = _named(model, kept["slot_s"])
                    by_model.setdefault(name, []).append(scores[str(horizon)]["wape"])
    enough = 0.8 * len(by_model["ensemble"])
    median = {m: float(np.median(v)) for m, v in by_model.items() if len(v) >= enough}
    ours = median.pop("ensemble")
    best = min(median, key=lambda m: median[m])
    return f"{_percent(ours)}, {_percent(median[best])} ({best})"


def _named(model: str, slot_s: float) -> str:
    """The season in the name as day or week, so that sets of other slots compare."""
    head, _, last = model.rpartition("_")
    season = (
        {86_400: "day", 604_800: "week"}.get(round(float(last) * slot_s))
        if (last.isdigit() and head.startswith(("seasonal", "holt", "lag")))
        else None
    )
    return f"{head}_{season}" if season else model


def _single(model: str) -> bool:
    return model != "ensemble" and not model.startswith("seasonal_quantiles")


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _spread(values: np.ndarray[Any, Any]) -> str:
    return f"{100 * values.min():.1f}, {100 * np.median(values):.1f}, {100 * values.max():.1f}"


def _share(true: np.ndarray[Any, Any]) -> str:
    return f"{100 * np.mean(true):.0f} %" if true.size else "–"


def _median(values: np.ndarray[Any, Any]) -> str:
    return f"{np.median(values):.2f}" if values.size else "–"
