"""Where a load is going, apart from its season: moving average, deviation, drift."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from profiler.forecast.port import FloatArray

AVERAGED_SLOTS = 12
DRIFT_SLOTS = 24
SURE = 3.0
"""Standard errors that a slope must be away from 0, …"""
SHARE_MIN = 0.05
"""… and the least rise or fall over DRIFT_SLOTS, as a share of the moving average."""


class Drift(StrEnum):
    RISING = "rising"
    FALLING = "falling"
    STEADY = "steady"


@dataclass(frozen=True, slots=True)
class LoadTrend:
    """Of the last values of a shard, in the unit that was learned.

    `moving_average` and `deviation` (standard) are of the last AVERAGED_SLOTS, `slope` is the least
    squares' change per slot over DRIFT_SLOTS. `drift` is steady unless the slope is sure.
    """

    moving_average: float
    deviation: float
    slope: float
    drift: Drift


def trend_of(values: FloatArray) -> LoadTrend:
    """The trend of at least one value, oldest first."""
    near, last = values[-AVERAGED_SLOTS:], values[-DRIFT_SLOTS:]
    average, deviation = float(near.mean()), float(near.std())
    if len(last) < AVERAGED_SLOTS:
        return LoadTrend(average, deviation, 0.0, Drift.STEADY)
    at = np.arange(len(last)) - (len(last) - 1) / 2.0
    slope = float(at @ last / (at @ at))
    left = last - last.mean() - slope * at
    error = float(np.sqrt(left @ left / max(len(last) - 2, 1) / (at @ at)))
    sure = abs(slope) > SURE * error and abs(slope) * DRIFT_SLOTS > SHARE_MIN * average
    direction = Drift.RISING if slope > 0 else Drift.FALLING
    return LoadTrend(average, deviation, slope, direction if sure else Drift.STEADY)
