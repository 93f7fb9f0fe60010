"""The mean of the same slot in past seasons, scaled to the recent level."""

import numpy as np

from profiler.forecast.history import History
from profiler.forecast.port import FloatArray, IntArray
from profiler.forecast.simple import HistoryForecaster


class SeasonalProfile(HistoryForecaster):
    """Profile x level.

    The profile of a slot is the weighted mean of the values 1..`seasons` seasons before it, newer
    ones heavier (`fade` each). The level is recent actuals over their own profile, exponentially
    weighted over `recent_slots`, pulled towards 1 by a prior and, with growing horizon, by
    `reversion_slots`: a busy hour says much of the next hour and little of tomorrow.
    """

    def __init__(
        self,
        history: History,
        season_slots: int,
        *,
        seasons: int = 4,
        fade: float = 0.6,
        recent_slots: int = 24,
        reversion_slots: float = 24.0,
    ) -> None:
        super().__init__(history)
        self._season = season_slots
        self._seasons = max(1, min(seasons, (history.depth - recent_slots) // season_slots))
        self._weights = fade ** np.arange(self._seasons)
        self._recent = np.arange(recent_slots)
        self._recent_weights = np.exp(-self._recent / max(1.0, recent_slots / 3))
        self._reversion = reversion_slots
        self.name = f"seasonal_profile_{season_slots}"

    def profile(self, rows: IntArray, offsets: IntArray) -> FloatArray:
        """The profile of slots `newest + offsets` (rows, offsets), NaN where unknown."""
        ahead = np.maximum(0, -(-offsets // self._season) - 1)
        past = (1 + np.arange(self._seasons))[None, :] + ahead[:, None]
        found = self._history.lag(rows, past * self._season - offsets[:, None])
        known = ~np.isnan(found)
        weight = (known * self._weights).sum(axis=2)
        total = (np.where(known, found, 0.0) * self._weights).sum(axis=2)
        return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)

    def forecast(self, rows: IntArray, horizons: IntArray) -> FloatArray:
        offsets = np.concatenate([horizons, -self._recent])
        profile = self.profile(rows, offsets)
        ahead, behind = profile[:, : len(horizons)], profile[:, len(horizons) :]
        recent = self._history.lag(rows, self._recent)
        known = ~(np.isnan(behind) | np.isnan(recent))
        was = (np.where(known, behind, 0.0) * self._recent_weights).sum(axis=1)
        came = (np.where(known, recent, 0.0) * self._recent_weights).sum(axis=1)
        prior = 0.1 * was + 1e-9
        level = np.clip((came + prior) / (was + prior), 0.2, 5.0)
        power = np.exp(-(horizons - 1) / self._reversion)
        said = ahead * level[:, None] ** power
        return np.where(np.isnan(said), self._history.newest(rows)[:, None], said)
