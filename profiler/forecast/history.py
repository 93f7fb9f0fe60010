"""The last values of many series in one ring, indexed by slot; every model reads it."""

import numpy as np

from profiler.forecast.port import FloatArray, IntArray


class History:
    """A ring of `depth` slots for each row. A row's slots are contiguous: the owner fills gaps."""

    def __init__(self, depth: int) -> None:
        if depth < 2:
            raise ValueError(f"depth is {depth} slots, the limit is at least 2")
        self.depth = depth
        self._values: FloatArray = np.zeros((0, depth))
        self.last: IntArray = np.zeros(0, dtype=np.int64)
        self.count: IntArray = np.zeros(0, dtype=np.int64)
        self.amended: FloatArray = np.zeros(0)
        """The sum of all changes by `amend` in each row, for owners of running sums."""

    def grow(self, rows: int) -> None:
        more = rows - len(self.last)
        self._values = np.concatenate([self._values, np.zeros((more, self.depth))])
        self.last = np.concatenate([self.last, np.zeros(more, dtype=np.int64)])
        self.count = np.concatenate([self.count, np.zeros(more, dtype=np.int64)])
        self.amended = np.concatenate([self.amended, np.zeros(more)])

    def start(self, row: int, slot: int) -> None:
        """Empty the row; its first value will be that of `slot`."""
        self.last[row] = slot - 1
        self.count[row] = 0
        self.amended[row] = 0.0

    def copy(self, parent: int, child: int, share: float) -> None:
        """Give `child` the slots of `parent`, each value times `share`."""
        self._values[child] = self._values[parent] * share
        self.last[child], self.count[child] = self.last[parent], self.count[parent]
        self.amended[child] = self.amended[parent] * share

    def push(self, rows: IntArray, values: FloatArray) -> None:
        """Add one value to each row, for the slot after its last."""
        self.last[rows] += 1
        self._values[rows, self.last[rows] % self.depth] = values
        self.count[rows] = np.minimum(self.count[rows] + 1, self.depth)

    def amend(self, rows: IntArray, age: int, values: FloatArray) -> None:
        """Replace the values of the slot `age` before each row's newest by `values`."""
        at = (self.last[rows] - age) % self.depth
        self.amended[rows] += values - self._values[rows, at]
        self._values[rows, at] = values

    def preload(self, rows: IntArray, values: FloatArray) -> None:
        """Add (rows, n <= depth) values, oldest first, as those of the last n slots."""
        n = values.shape[1]
        slots = self.last[rows][:, None] - np.arange(n - 1, -1, -1)
        self._values[rows[:, None], slots % self.depth] = values
        self.count[rows] = np.maximum(self.count[rows], n)

    def lag(self, rows: IntArray, lags: IntArray) -> FloatArray:
        """Values `lags` slots before the newest (0 = newest), NaN where unknown.

        Shape (rows,) + lags.shape. A negative lag is the future and NaN.
        """
        shape = (len(rows),) + (1,) * lags.ndim
        at = (self.last[rows].reshape(shape) - lags) % self.depth
        found: FloatArray = self._values[rows.reshape(shape), at]
        found[(lags >= self.count[rows].reshape(shape)) | (lags < 0)] = np.nan
        return found

    def newest(self, rows: IntArray) -> FloatArray:
        """The last value of each row, 0 where there is none, shape (rows,)."""
        found: FloatArray = self._values[rows, self.last[rows] % self.depth]
        return np.where(self.count[rows] > 0, found, 0.0)

    def series(self, row: int) -> FloatArray:
        """The values of the row, oldest first; the newest is of slot `last[row]`."""
        n, last = int(self.count[row]), int(self.last[row])
        found: FloatArray = self._values[row, np.arange(last - n + 1, last + 1) % self.depth]
        return found
