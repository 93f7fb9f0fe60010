"""Recursive least squares for rows x horizons at once (Haykin, Adaptive Filter Theory, ch. 10)."""

import numpy as np

from profiler.forecast.port import BoolArray, FloatArray, IntArray

TRACE_MAX = 1e4


class LeastSquares:
    """Weights of `features` for each row and horizon, forgetting by `forget` an update.

    Targets and features are divided by the running mean size of the target first, so `ridge` means
    the same for every unit; residuals over `clip` of it are clipped (Huber), so one anomaly moves
    little. Without news the inverse would grow for ever ("wind-up"): it forgets only while small.
    """

    def __init__(
        self,
        horizons: int,
        features: int,
        *,
        forget: float = 0.9995,
        ridge: float = 20.0,
        clip: float = 4.0,
    ) -> None:
        self._features = features
        self._forget, self._ridge, self._clip = forget, ridge, clip
        self._weights: FloatArray = np.zeros((0, horizons, features))
        self._inverse: FloatArray = np.zeros((0, horizons, features, features))
        self._spread: FloatArray = np.zeros((0, horizons))

    def grow(self, rows: int) -> None:
        old = len(self._weights)
        for name in ("_weights", "_inverse", "_spread"):
            held = getattr(self, name)
            more = np.zeros((rows - old, *held.shape[1:]), dtype=held.dtype)
            setattr(self, name, np.concatenate([held, more]))
        self._inverse[old:] = np.eye(self._features) / self._ridge

    def clear(self, row: int) -> None:
        self._weights[row] = self._spread[row] = 0.0
        self._inverse[row] = np.eye(self._features) / self._ridge

    def copy(self, parent: int, child: int, share: float) -> None:
        """Weights have no unit; the spread scales with the share."""
        self._weights[child] = self._weights[parent]
        self._inverse[child] = self._inverse[parent]
        self._spread[child] = self._spread[parent] * share

    def weights(self, rows: IntArray) -> FloatArray:
        found: FloatArray = self._weights[rows]
        return found

    def learn(self, rows: IntArray, x: FloatArray, target: FloatArray, usable: BoolArray) -> None:
        """x (rows, horizons, features), target and usable (rows, horizons)."""
        target = np.where(usable, target, 0.0)
        x = np.where(usable[:, :, None], x, 0.0)
        spread = self._spread[rows]
        first = (spread == 0.0) & usable
        size = np.abs(target)
        spread = np.where(first, size, np.where(usable, spread + 0.02 * (size - spread), spread))
        self._spread[rows] = spread
        unit = np.maximum(spread, 1e-9)[:, :, None]
        x = x / unit
        inverse = self._inverse[rows]
        inverse_x = (inverse @ x[:, :, :, None])[:, :, :, 0]
        gain = inverse_x / (self._forget + (x * inverse_x).sum(axis=2))[:, :, None]
        error = target / unit[:, :, 0] - (self._weights[rows] * x).sum(axis=2)
        error = np.clip(error, -self._clip, self._clip)
        self._weights[rows] += gain * error[:, :, None]
        inverse = inverse - gain[:, :, :, None] * inverse_x[:, :, None, :]
        trace = np.trace(inverse, axis1=2, axis2=3)
        fade = np.where(usable & (trace < TRACE_MAX), self._forget, 1.0)
        self._inverse[rows] = inverse / fade[:, :, None, None]
