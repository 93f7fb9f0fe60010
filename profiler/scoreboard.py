"""Live scores of models by horizon and shard: WAPE, pinball, Winkler, coverage, width.

Sums only, so bounded: a few numbers for each row, horizon and model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_MISSED = np.array([0.2, 0.05])
LAPLACE_80, LAPLACE_95 = float(np.log(5.0)), float(np.log(20.0))
"""Half widths, in mean absolute errors, of the central 80 and 95 % of a Laplace distribution."""
ERROR, WINKLER_80, WINKLER_95, INSIDE_80, INSIDE_95, WIDTH_80, WIDTH_95 = range(7)


@dataclass(frozen=True, slots=True)
class Score:
    """How a model did at one horizon over `n` scored slots.

    `wape` is sum |error| / sum actual (Kolassa and Schütz, 2007; inf when all values were 0).
    `winkler80` and `winkler95` are mean interval scores (Winkler, 1972) and `width80`, `width95`
    mean widths, `coverage80` and `coverage95` the shares of actuals inside. `pinball` is the mean
    pinball loss of the five quantiles 2.5, 10, 50, 90 and 97.5 %, which is the weighted interval
    score (Bracher et al., 2021) with the mean as the median. Losses and widths are in the unit of
    the series. The published forecast has its own intervals; single models have Laplace
    ones around their means, of the size of their recent mean error.
    """

    wape: float
    pinball: float
    winkler80: float
    winkler95: float
    coverage80: float
    coverage95: float
    width80: float
    width95: float
    n: int


class Scoreboard:
    """Sums for rows x `horizons` x `models`, and of the rows that are gone."""

    def __init__(self, models: tuple[str, ...], horizons: tuple[int, ...]) -> None:
        self.models, self.horizons = models, horizons
        size = (len(horizons), len(models))
        self._sums: FloatArray = np.zeros((0, *size, 7))
        self._base: FloatArray = np.zeros((0, len(horizons), 2))
        """Scored slots, and the sum of the actual values."""
        self._gone = np.zeros((*size, 7)), np.zeros((len(horizons), 2))

    def grow(self, rows: int) -> None:
        more = rows - len(self._sums)
        self._sums = np.concatenate([self._sums, np.zeros((more, *self._sums.shape[1:]))])
        self._base = np.concatenate([self._base, np.zeros((more, *self._base.shape[1:]))])

    def clear(self, row: int) -> None:
        """The row is another shard's now: its scores stay in the sums over all."""
        self._gone[0][:] += self._sums[row]
        self._gone[1][:] += self._base[row]
        self._sums[row] = self._base[row] = 0.0

    def copy(self, parent: int, child: int, share: float) -> None:
        """Nothing to do: the parent's forecasts are scored once, as the parent's."""

    def reset(self) -> None:
        for held in (self._sums, self._base, *self._gone):
            held[:] = 0.0

    def add(
        self,
        rows: IntArray,
        actual: FloatArray,
        errors: FloatArray,
        usual: FloatArray,
        bounds: FloatArray,
    ) -> None:
        """Predictions due: `actual` (rows,), `errors` (rows, horizons, models) absolute, NaN where
        none was due; `usual` likewise the recent mean error of each, for all models but the last.

        `bounds` (rows, horizons, 4: lower80, upper80, lower95, upper95) are those of the last
        model, the spoken forecast.
        """
        due = ~np.isnan(errors[:, :, 0])
        error = np.where(due[:, :, None], errors, 0.0)
        found = np.empty((*errors.shape, 7))
        found[..., ERROR] = error
        half = usual[..., None] * np.array([LAPLACE_80, LAPLACE_95])
        outside = error[:, :, :-1, None] - half
        found[:, :, :-1, WINKLER_80:INSIDE_80] = 2.0 * half + 2.0 / _MISSED * np.maximum(
            outside, 0.0
        )
        found[:, :, :-1, INSIDE_80:WIDTH_80] = outside <= 0.0
        found[:, :, :-1, WIDTH_80:] = 2.0 * half
        y, low, high = actual[:, None, None], bounds[:, :, ::2], bounds[:, :, 1::2]
        width = high - low
        over = np.maximum(low - y, 0.0) + np.maximum(y - high, 0.0)
        found[:, :, -1, WINKLER_80:INSIDE_80] = width + 2.0 / _MISSED * over
        found[:, :, -1, INSIDE_80:WIDTH_80] = over <= 0.0
        found[:, :, -1, WIDTH_80:] = width
        self._sums[rows] += np.where(due[:, :, None, None], found, 0.0)
        self._base[rows, :, 0] += due
        self._base[rows, :, 1] += np.where(due, actual[:, None], 0.0)

    def score(self, row: int | None = None) -> dict[str, dict[int, Score]]:
        """By model, then by horizon in slots, of one row or of all rows, past ones included;
        horizons without a score are left out."""
        if row is None:
            sums, base = (
                self._sums.sum(axis=0) + self._gone[0],
                self._base.sum(axis=0) + self._gone[1],
            )
        else:
            sums, base = self._sums[row], self._base[row]
        return {
            model: {
                horizon: _score(sums[i, m], int(base[i, 0]), float(base[i, 1]))
                for i, horizon in enumerate(self.horizons)
                if base[i, 0]
            }
            for m, model in enumerate(self.models)
        }

    def state(self, row: int) -> dict[str, Any]:
        return {
            "models": list(self.models),
            "sums": self._sums[row].ravel().tolist(),
            "base": self._base[row].ravel().tolist(),
        }

    def restore(self, row: int, state: dict[str, Any]) -> None:
        """Restore a saved state; one of other models or horizons is ignored."""
        base: Sequence[float] = state["base"]
        if tuple(state["models"]) == self.models and len(base) == self._base[row].size:
            self._sums[row] = np.array(state["sums"]).reshape(self._sums.shape[1:])
            self._base[row] = np.array(base).reshape(self._base.shape[1:])


def _score(sums: FloatArray, n: int, total: float) -> Score:
    error = float(sums[ERROR])
    mean = sums / n
    pinball = 0.5 * mean[ERROR] + 0.1 * mean[WINKLER_80] + 0.025 * mean[WINKLER_95]
    return Score(
        wape=error / total if total > 0 else float("inf" if error else 0.0),
        pinball=float(pinball) / 5.0,
        winkler80=float(mean[WINKLER_80]),
        winkler95=float(mean[WINKLER_95]),
        coverage80=float(mean[INSIDE_80]),
        coverage95=float(mean[INSIDE_95]),
        width80=float(mean[WIDTH_80]),
        width95=float(mean[WIDTH_95]),
        n=n,
    )
