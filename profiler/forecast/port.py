"""The Forecaster port. One object serves many series (rows): numpy calls, not loops."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class RowKeeper(Protocol):
    """Keeps state for each row beside the history."""

    def grow(self, rows: int) -> None:
        """Make room for `rows` rows in all; known rows keep what they learned."""

    def clear(self, row: int) -> None:
        """Forget the state of `row`."""

    def copy(self, parent: int, child: int, share: float) -> None:
        """Make `child` what `parent` would be had it learned `share` of each value."""


class Forecaster(RowKeeper, Protocol):
    """A model that learns series slot by slot and forecasts their means some slots ahead.

    Rows are indices into the `History` it was made with. The owner pushes a value into the history
    first, then calls `learn`. A model with too little history forecasts the last value; it never
    returns NaN. Values are not negative, in any unit. A model's state beside the history must be
    rebuilt by `clear` and then push and `learn` over a row's values, oldest first: that is how a
    row is restored.
    """

    name: str

    def learn(self, rows: IntArray, values: FloatArray) -> None:
        """Learn the newest value of each row, shape (rows,). Each row at most once in a call."""

    def forecast(self, rows: IntArray, horizons: IntArray) -> FloatArray:
        """Means `horizons` (>= 1, ascending) slots after the newest, shape (rows, horizons)."""
