"""Load over time by key range: the input of the simulator, and ways to get it.

A series holds operations per slot, [T, C]: T slots of `slot_s` seconds, C key ranges (columns). In
each column seeded zipf weights divide the load over PARTS sub-ranges, so that splits are possible.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sharder.risk import Floats

PARTS = 16
DAY_S = 86_400.0
SLOTS_MAX, COLUMNS_MAX = 200_000, 4_096


@dataclass(frozen=True, slots=True)
class Series:
    """Operations per slot of each key range. ValueError names what is out of bounds."""

    names: tuple[str, ...]
    loads: Floats
    slot_s: float

    def __post_init__(self) -> None:
        if self.loads.ndim != 2 or self.loads.shape[1] != len(self.names) or not self.loads.size:
            raise ValueError(
                f"series has shape {self.loads.shape}, it must be (slots, {len(self.names)})"
            )
        slots, columns = self.loads.shape
        if len(set(self.names)) < columns:
            twice = next(n for i, n in enumerate(self.names) if n in self.names[:i])
            raise ValueError(f"series has two key ranges called {twice!r}")
        if slots > SLOTS_MAX or columns > COLUMNS_MAX:
            raise ValueError(
                f"series has {slots} slots and {columns} key ranges, the limits are {SLOTS_MAX} and"
                f" {COLUMNS_MAX}"
            )
        if not 0 < self.slot_s <= 7 * DAY_S:
            raise ValueError(f"slot_s is {self.slot_s}, it must be within 0..{7 * DAY_S:.0f} s")
        if not (np.isfinite(self.loads).all() and (self.loads >= 0).all()):
            raise ValueError("series holds a load that is negative or not finite")

    @property
    def season(self) -> int | None:
        """Slots of a day, where a day is a whole number of slots and the series holds two."""
        slots = round(DAY_S / self.slot_s)
        whole = slots >= 2 and abs(slots * self.slot_s - DAY_S) < 1e-6
        return slots if whole and 2 * slots <= len(self.loads) else None

    def cut(self, slots: int) -> "Series":
        """The first `slots` slots."""
        return replace(self, loads=self.loads[:slots])

    def rebin(self, slot_s: float) -> "Series":
        """Longer slots; `slot_s` must be a multiple of the present one. An incomplete one is left
        out."""
        times = round(slot_s / self.slot_s)
        if times < 1 or abs(times * self.slot_s - slot_s) > 1e-6:
            raise ValueError(f"slot_s is {slot_s}, it must be a multiple of {self.slot_s} s")
        whole = len(self.loads) // times * times
        loads = self.loads[:whole].reshape(-1, times, len(self.names)).sum(axis=1)
        return replace(self, loads=loads, slot_s=slot_s)


def part_weights(columns: int, seed: int, exponent: float = 1.0) -> Floats:
    """Share of each sub-range in its column's load, [C, PARTS]: zipf weights in seeded order."""
    rng = np.random.default_rng([seed, 16])
    weights = 1.0 / np.arange(1, PARTS + 1) ** exponent
    rows = np.stack([rng.permutation(weights) for _ in range(columns)])
    return np.asarray(rows / weights.sum(), dtype=np.float64)


def daily_autocorrelation(series: Series) -> float:
    """Correlation of the total load with itself a day later; 0 without two whole days."""
    season = series.season
    if season is None:
        return 0.0
    total = series.loads.sum(axis=1)
    a, b = total[:-season], total[season:]
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def from_events(
    time_s: Floats,
    key_rank: NDArray[np.int64],
    slot_s: float,
    ranges: int = 64,
    weight: Floats | None = None,
) -> Series:
    """Series of single events: their times, and their keys as ranks in key order; `weight`: how
    many events each stands for.

    Ranges are chosen so that each holds about the same number of distinct keys.
    """
    if len(time_s) == 0 or len(time_s) != len(key_rank):
        raise ValueError(f"events: {len(time_s)} times and {len(key_rank)} keys")
    if not (np.isfinite(time_s).all() and 0 < slot_s < np.inf):
        raise ValueError(f"events: times must be finite and slot_s above 0, it is {slot_s}")
    slots = (float(time_s.max()) - float(time_s.min())) // slot_s + 1
    if slots > SLOTS_MAX:
        raise ValueError(
            f"events lie in {slots:.0f} slots of {slot_s:g} s, from {time_s.min():.0f} to "
            f"{time_s.max():.0f}; the limit is {SLOTS_MAX}"
        )
    column = equal_ranges(key_rank, ranges)
    count = int(column.max()) + 1
    slot = ((time_s - time_s.min()) // slot_s).astype(np.int64)
    loads = np.zeros((int(slot.max()) + 1, count))
    np.add.at(loads, (slot, column), 1.0 if weight is None else weight)
    return Series(tuple(f"range-{n:02}" for n in range(count)), loads, slot_s)


def equal_ranges(key_rank: NDArray[np.int64], ranges: int) -> NDArray[np.int64]:
    """The range of each key rank, so that ranges hold equally many distinct ranks."""
    distinct, which = np.unique(key_rank, return_inverse=True)
    return np.asarray(which * min(ranges, len(distinct)) // len(distinct), dtype=np.int64)


def compose(
    rate: Floats, key_range: NDArray[np.int64], slot_s: float, window: int = 2_000
) -> Series:
    """A rate curve [T] x a key sequence: a composition, not a trace of a real store.

    The sequence is walked once over the whole curve; in each slot the load is divided like the
    `window` keys around that place.
    """
    ranges = int(key_range.max()) + 1
    hits = np.zeros((len(key_range) + 1, ranges))
    np.add.at(hits, (np.arange(1, len(key_range) + 1), key_range), 1.0)
    hits = hits.cumsum(axis=0)
    width = min(window, len(key_range))
    first = np.linspace(0, len(key_range) - width, len(rate)).astype(np.int64)
    share = (hits[first + width] - hits[first]) / width
    names = tuple(f"range-{n:02}" for n in range(ranges))
    return Series(names, rate[:, None] * share, slot_s)
