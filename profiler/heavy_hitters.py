"""Which single keys are hot, among any number of keys, in bounded memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
HashArray = npt.NDArray[np.uint64]
ODD = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93],
    dtype=np.uint64,
)


class HeavyHitters:
    """A count-min sketch (Cormode and Muthukrishnan, 2005) with a list of the heaviest keys.

    Keys are 64-bit hashes; the caller names a hash that is new in the list. An estimate is
    never under the true count, and over it by more than e / `width` of the total only
    with probability exp(-4). Cells are found by multiply-shift (Dietzfelbinger et al., 1997).
    A batch costs a few numpy calls: river's HeavyHitters takes a Python call for each key, which is
    more than the append itself. Memory: 4 x `width` x 8 bytes and `capacity` names.
    """

    def __init__(self, capacity: int = 256, width: int = 65_536, fade: float = 1.0) -> None:
        if capacity < 1 or width < 16 or width & (width - 1):
            raise ValueError(
                f"capacity, width are {capacity}, {width}, "
                "the limits are at least 1 and a power of two of at least 16"
            )
        if not 0.0 < fade <= 1.0:
            raise ValueError(f"fade is {fade}, the limit is 0 to 1")
        self.capacity, self.width, self._fade = capacity, width, fade
        self._shift = np.uint64(64 - (width.bit_length() - 1))
        self._cells: FloatArray = np.zeros((len(ODD), width))
        self._names: dict[int, Any] = {}
        self.total = 0.0
        self._bar = 0.0

    def add(
        self,
        hashes: HashArray,
        weights: FloatArray | None = None,
        name: Callable[[int], Any] | None = None,
    ) -> None:
        """A batch of accesses, of weight 1 each without `weights`; `name(i)` is the key of element
        i.

        Only elements that enter the list are named; without `name` a key is its hash.
        """
        self.total += float(len(hashes) if weights is None else weights.sum())
        at = self._at(hashes)
        for cells, found in zip(self._cells, at, strict=True):
            cells += np.bincount(found, weights=weights, minlength=self.width)
        estimate = self._estimate(at)
        # Once the list is full, only keys heavier than its lightest can enter.
        hot = np.flatnonzero(estimate >= self._bar)
        unique, first = np.unique(hashes[hot], return_index=True)
        most = 2 * self.capacity
        if len(unique) > most:
            heaviest = np.argpartition(estimate[hot[first]], -most)[-most:]
            unique, first = unique[heaviest], first[heaviest]
        for key, i in zip(unique.tolist(), hot[first].tolist(), strict=True):
            if key not in self._names:
                self._names[key] = key if name is None else name(i)
        if len(self._names) > most:
            self._trim()

    def tick(self) -> None:
        """A slot has passed: older counts fade."""
        if self._fade < 1.0:
            self._cells *= self._fade
            self.total *= self._fade
            self._bar *= self._fade

    def top(self, count: int = 10) -> list[tuple[Any, float]]:
        """(key, estimated count), heaviest first."""
        return [(self._names[key], n) for key, n in self._ordered()[: min(count, self.capacity)]]

    def merge(self, other: "HeavyHitters") -> None:
        """Add the counts of another instance; the widths must be equal."""
        if other.width != self.width:
            raise ValueError(f"width is {other.width}, the limit is {self.width} as here")
        self._cells += other._cells
        self.total += other.total
        self._names = {**other._names, **self._names}
        self._trim()

    @property
    def nbytes(self) -> int:
        return int(self._cells.nbytes)

    def _at(self, hashes: HashArray) -> npt.NDArray[np.int64]:
        with np.errstate(over="ignore"):
            return ((hashes[None, :] * ODD[:, None]) >> self._shift).astype(np.int64)

    def _estimate(self, at: npt.NDArray[np.int64]) -> FloatArray:
        found: FloatArray = self._cells[0][at[0]]
        for cells, where in zip(self._cells[1:], at[1:], strict=True):
            found = np.minimum(found, cells[where])
        return found

    def _trim(self) -> None:
        kept = self._ordered()[: self.capacity]
        self._names = {key: self._names[key] for key, _ in kept}
        self._bar = kept[-1][1] if len(kept) == self.capacity else 0.0

    def _ordered(self) -> list[tuple[int, float]]:
        keys = list(self._names)
        estimate = self._estimate(self._at(np.array(keys, dtype=np.uint64))).tolist()
        return sorted(zip(keys, estimate, strict=True), key=lambda item: (-item[1], item[0]))
