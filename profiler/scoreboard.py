"""Running scores of models by horizon: WAPE, pinball loss, coverage. Sums only, so bounded."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    """How a model did at one horizon over `n` scored slots.

    `wape` is sum |error| / sum actual (Kolassa and Schütz, 2007; inf when nothing but zeros came).
    `pinball` is the mean pinball loss over the quantiles it said, in the unit of the series; a
    model that says only a mean is a one-point distribution, whose loss is |error| / 2. `coverage80`
    and `coverage95` are the shares of actuals inside the intervals, None without intervals.
    """

    wape: float
    pinball: float
    coverage80: float | None
    coverage95: float | None
    n: int


class Scoreboard:
    """Sums for `models` x `horizons`. Only the last model, the spoken one, has intervals."""

    def __init__(self, models: tuple[str, ...], horizons: tuple[int, ...]) -> None:
        self.models, self.horizons = models, horizons
        self._error: FloatArray = np.zeros((len(horizons), len(models)))
        self._pinball: FloatArray = np.zeros(len(horizons))
        self._actual: FloatArray = np.zeros(len(horizons))
        self._covered: FloatArray = np.zeros((len(horizons), 2))
        self._n: FloatArray = np.zeros(len(horizons))

    def add(
        self,
        actual: FloatArray,
        errors: FloatArray,
        levels: tuple[float, ...],
        quantiles: FloatArray,
        bounds: FloatArray,
    ) -> None:
        """Predictions due: `actual` (rows,), `errors` absolute (rows, horizons, models) or NaN.

        `quantiles` (rows, horizons, levels) and `bounds` (rows, horizons, 4: lower80, upper80,
        lower95, upper95) are those of the spoken forecast.
        """
        due = ~np.isnan(errors[:, :, 0])
        y = actual[:, None]
        self._error += np.where(due[:, :, None], errors, 0.0).sum(axis=0)
        self._actual += np.where(due, y, 0.0).sum(axis=0)
        self._n += due.sum(axis=0)
        gap = y[:, :, None] - quantiles
        loss = np.maximum(np.array(levels) * gap, (np.array(levels) - 1.0) * gap).mean(axis=2)
        self._pinball += np.where(due, loss, 0.0).sum(axis=0)
        for k, i in enumerate((0, 2)):
            inside = due & (y >= bounds[:, :, i]) & (y <= bounds[:, :, i + 1])
            self._covered[:, k] += inside.sum(axis=0)

    def score(self) -> dict[str, dict[int, Score]]:
        """By model, then by horizon in slots; horizons with nothing scored are left out."""
        found: dict[str, dict[int, Score]] = {}
        for m, model in enumerate(self.models):
            spoken = m == len(self.models) - 1
            found[model] = {}
            for i, horizon in enumerate(self.horizons):
                n, total, error = self._n[i], self._actual[i], self._error[i, m]
                if n == 0:
                    continue
                found[model][horizon] = Score(
                    wape=float(error / total) if total > 0 else float("inf" if error else 0.0),
                    pinball=float((self._pinball[i] if spoken else error / 2.0) / n),
                    coverage80=float(self._covered[i, 0] / n) if spoken else None,
                    coverage95=float(self._covered[i, 1] / n) if spoken else None,
                    n=int(n),
                )
        return found
