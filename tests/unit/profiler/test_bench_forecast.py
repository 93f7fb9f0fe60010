"""`python -m bench forecast`: prequential, complete, and the columns of any CSV."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.__main__ import build
from bench.forecast import ahead, conformal, seasonal_quantiles, walk
from bench.forecast_score import ForecastPair, quantile_metrics
from bench.series import SeriesSet, load_series

KEYS = {"wape", "pinball", "winkler80", "winkler95", "coverage80", "coverage95", "width80",
        "width95", "us_per_update", "n"}  # fmt: skip


def series_of(values: np.ndarray) -> SeriesSet:
    return SeriesSet("made", 3600.0, 0, {"a": values, "b": 2.0 * values})


def made(slots: int = 260) -> np.ndarray:
    at = np.arange(slots)
    noise = np.random.default_rng(1).normal(0, 4, slots)
    return np.maximum(80 + 50 * np.sin(2 * np.pi * at / 24) + noise, 0.0)


def test_a_changed_future_leaves_everything_that_was_said_before_the_same() -> None:
    one, other = made(), made()
    other[180:] = np.random.default_rng(2).uniform(0, 5000, 80)
    first, second = walk(series_of(one), (1, 6)), walk(series_of(other), (1, 6))
    assert np.array_equal(first.means[:180], second.means[:180], equal_nan=True)
    assert np.array_equal(first.quantiles[:180], second.quantiles[:180], equal_nan=True)
    assert not np.allclose(first.means[180:], second.means[180:])
    for horizon in (1, 6):  # the baselines and the intervals of single models too
        said = ahead(first.means[:, 0, 0, 0], horizon)
        end = 180 + horizon
        for a, b in (
            (conformal(said, one, horizon)[:181], conformal(said, other, horizon)[:181]),
            *(
                (x[1][:end], y[1][:end])
                for x, y in zip(
                    seasonal_quantiles(one, 3600.0, horizon),
                    seasonal_quantiles(other, 3600.0, horizon),
                    strict=True,
                )
            ),
        ):
            assert np.array_equal(a[:180], b[:180], equal_nan=True)


def test_the_command_tells_every_metric_of_every_model(tmp_path: Path) -> None:
    path = tmp_path / "load.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("slot_1h,a,b\n")
        for slot, value in enumerate(made().tolist()):
            file.write(f"{slot},{value:.3f},{'' if slot == 50 else 2 * value}\n")
    asked = ["forecast", "--series", str(path), "--horizons", "1,6", "--json"]
    result = CliRunner().invoke(build(asked), asked)
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert set(found) == {"a", "b"}
    assert {"ensemble", "last_value", "short_regression", "seasonal_quantiles_day"} <= set(
        found["a"]
    )
    for models in found.values():
        for horizons in models.values():
            assert set(horizons) == {"1", "6"}
            assert all(set(scores) >= KEYS for scores in horizons.values())
    assert found["a"]["ensemble"]["6"]["wape"] < 0.5 * found["a"]["last_value"]["6"]["wape"]


def test_metrics_by_hand() -> None:
    quantiles = np.tile(np.linspace(8.0, 12.0, 15), (4, 1))
    answer = ForecastPair(
        np.array([10.0, 20.0, 10.0, np.nan]), np.full(4, 10.0), quantiles, np.full(4, -1), 0
    )
    found = quantile_metrics(answer)
    assert found["n"] == 3
    assert found["wape"] == pytest.approx(10 / 40)
    assert found["coverage80"] == pytest.approx(2 / 3)
    low, high = quantiles[0, 1], quantiles[0, 13]
    unit = 40 / 3
    assert found["winkler95"] == pytest.approx((high - low + 40 * (20 - high) / 3) / unit, rel=1e-4)


def test_files_of_times_slots_and_events(tmp_path: Path) -> None:
    stamps = tmp_path / "stamps.csv"
    stamps.write_text(
        "timestamp,value\n2024-01-01 00:01:00,1\n2024-01-01 00:06:00,3\n2024-01-01 00:16:00,5\n"
    )
    found = load_series(stamps, 300.0)
    assert found.slots == 4
    assert found.values["value"].tolist()[:2] == [1.0, 3.0]
    assert np.isnan(found.values["value"][2])
    events = load_series(stamps, 60.0, events=True)
    assert events.values["arrivals"].sum() == 2.0  # the last slot is cut off
    empty = tmp_path / "empty.csv"
    empty.write_text("time_s,a\n")
    with pytest.raises(ValueError, match="has no rows"):
        load_series(empty)
