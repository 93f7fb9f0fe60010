"""AccessHeatmap: key x time, in buckets that follow the traffic, in bounded memory."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from profiler.key_sample import KEY_BYTES_MAX

FloatArray = npt.NDArray[np.float64]
BLOCKS = " ▁▂▃▄▅▆▇█"
KEYS_PER_BUCKET = 128


class AccessHeatmap:
    """Weights of accesses over `buckets_max` key ranges and the last `slots_max` slots.

    A bucket with more than twice its part of the recent (decayed) weight is split at the
    weighted median of the keys seen in it; when there are too many, the coldest neighbours are
    joined. Counts of a split bucket are divided by the keys that are remembered, so past
    columns are estimates while totals stay exact. Each bucket remembers at most KEYS_PER_BUCKET
    keys of at most KEY_BYTES_MAX bytes (the space-saving algorithm of Metwally et al., 2005, so a
    heavy key is never lost): that and the grid is all the memory, whatever the number of keys.
    """

    def __init__(
        self, buckets_max: int = 256, slots_max: int = 168, half_life_slots: float = 12.0
    ) -> None:
        if buckets_max < 4 or slots_max < 1 or not half_life_slots > 0:
            raise ValueError(
                f"buckets_max, slots_max, half_life_slots are {buckets_max}, {slots_max}, "
                f"{half_life_slots}, the limits are at least 4, 1 and more than 0"
            )
        self._buckets_max, self._slots_max = buckets_max, slots_max
        self._fade = 0.5 ** (1.0 / half_life_slots)
        self._starts: list[bytes] = [b""]
        self._keys: list[dict[bytes, float]] = [{}]
        self._recent: FloatArray = np.zeros(1)
        self._grid: FloatArray = np.zeros((slots_max, 1))
        self._newest: int | None = None
        self._since_fit = 0
        self.dropped_weight = 0.0

    def add(self, keys: Sequence[bytes], weights: Iterable[float] | None, slot: int) -> None:
        """Accesses of `keys` in `slot`, of weight 1 each without `weights`.

        A slot older than the window is dropped and its weight counted in `dropped_weight`.
        """
        self._advance(slot)
        weight_of = [1.0] * len(keys) if weights is None else list(weights)
        if len(weight_of) != len(keys):
            raise ValueError(f"weights has {len(weight_of)} elements, keys has {len(keys)}")
        newest = self._newest or 0
        if slot <= newest - self._slots_max:
            self.dropped_weight += sum(weight_of)
            return
        column, fade = self._grid[slot % self._slots_max], self._fade ** (newest - slot)
        for key, weight in zip(keys, weight_of, strict=True):
            key = key[:KEY_BYTES_MAX]
            at = bisect_right(self._starts, key) - 1
            column[at] += weight
            self._recent[at] += weight * fade
            _remember(self._keys[at], key, weight * fade)
            self._since_fit += 1
            if self._since_fit >= self._buckets_max:
                self._fit()
                column = self._grid[slot % self._slots_max]

    def add_samples(self, samples: Iterable[tuple[bytes, float]], slot: int) -> None:
        """(key, estimated count) pairs, like `ShardStatistics.sampled_keys`."""
        pairs = list(samples)
        self.add([key for key, _ in pairs], [weight for _, weight in pairs], slot)

    def merge(self, other: "AccessHeatmap") -> None:
        """Add the heatmap of another instance; slots must mean the same and the windows be as long.

        Both are split at the boundaries of either, then the coldest neighbours are joined: totals
        of a slot stay exact, shares within a split bucket are those of the keys remembered in it.
        """
        if other._slots_max != self._slots_max:
            raise ValueError(f"slots_max is {other._slots_max}, the limit is {self._slots_max}")
        if other._newest is None:
            return
        self._advance(other._newest)
        newest = self._newest or 0
        fade = self._fade ** (newest - other._newest)
        for start in other._starts:
            self._cut_at(start)
        theirs = other._copy()
        for start in self._starts:
            theirs._cut_at(start)
        self._recent += theirs._recent * fade
        for held, more in zip(self._keys, theirs._keys, strict=True):
            for key, weight in more.items():
                _remember(held, key, weight * fade)
        oldest = newest - self._slots_max + 1
        for slot in range(max(oldest, other._newest - self._slots_max + 1), other._newest + 1):
            self._grid[slot % self._slots_max] += theirs._grid[slot % self._slots_max]
        self.dropped_weight += other.dropped_weight
        self._fit()

    def grid(self) -> tuple[list[bytes], list[int], FloatArray]:
        """Bucket starts (the first is b""), slots oldest first, and weights (slots, buckets)."""
        if self._newest is None:
            return list(self._starts), [], np.zeros((0, len(self._starts)))
        slots = list(range(self._newest - self._slots_max + 1, self._newest + 1))
        return list(self._starts), slots, self._grid[np.array(slots) % self._slots_max].copy()

    def recent_load(self, start: bytes = b"", end: bytes | None = None) -> float:
        """The decayed weight of keys in [start, end); `end` None is the end of the key space."""
        return sum(weight for _, weight in self._weighted(start, end))

    def hottest(self, count: int = 10) -> list[tuple[bytes, float]]:
        """The heaviest keys and their share of the recent load, largest first.

        Shares are upper bounds: too high by at most the share of the lightest remembered neighbour.
        """
        total = float(self._recent.sum()) or 1.0
        found = [(key, weight / total) for held in self._keys for key, weight in held.items()]
        return sorted(found, key=lambda item: (-item[1], item[0]))[:count]

    def split_key(self, start: bytes, end: bytes | None) -> bytes | None:
        """The key that halves the recent load of [start, end): strictly inside, and short.

        One hot key cannot be halved: the answer is then the key beside it that is nearest to half.
        None when fewer than two keys of the range are known.
        """
        weighted = self._weighted(start, end)
        if len(weighted) < 2:
            return None
        weights = np.cumsum([weight for _, weight in weighted])
        cut = int(np.argmin(np.abs(weights[:-1] - weights[-1] / 2.0)))
        return separator(weighted[cut][0], weighted[cut + 1][0])

    def weighted_keys(
        self, start: bytes = b"", end: bytes | None = None
    ) -> list[tuple[bytes, float]]:
        """The remembered keys in [start, end), rising, with the recent weight that they stand
        for."""
        return self._weighted(start, end)

    def cuts(
        self, start: bytes, end: bytes | None, cuts_max: int = 32
    ) -> list[tuple[bytes, float]]:
        """Keys strictly inside [start, end) to split at, rising, and the share of load below each.

        They lie at about equal steps of load and on both sides of every key that is heavier than a
        step, so that a hot key can be split off. None when fewer than two keys are known.
        """
        weighted = [(key, weight) for key, weight in self._weighted(start, end) if weight > 0]
        if len(weighted) < 2 or cuts_max < 1:
            return []
        weights = np.array([weight for _, weight in weighted])
        below = np.cumsum(weights) / weights.sum()
        step = 1.0 / (cuts_max + 1)
        level = np.floor(below[:-1] / step)
        heavy = weights / weights.sum() > step
        wanted = np.flatnonzero(
            (level > np.concatenate([[0.0], level[:-1]])) | heavy[:-1] | heavy[1:]
        )
        if len(wanted) > cuts_max:
            wanted = wanted[np.linspace(0, len(wanted) - 1, cuts_max).round().astype(int)]
        found = [
            (separator(weighted[i][0], weighted[i + 1][0]), float(below[i]))
            for i in wanted.tolist()
        ]
        return [(key, share) for key, share in found if key > start]

    def to_json(self) -> dict[str, Any]:
        """Bucket starts in hex and as text, slots and rounded counts, of JSON types."""
        starts, slots, counts = self.grid()
        return {
            "starts_hex": [start.hex() for start in starts],
            "labels": [start.decode("utf-8", "backslashreplace") for start in starts],
            "slots": slots,
            "counts": np.round(counts, 3).tolist(),
        }

    def strip(self, width: int = 64, slot: int | None = None) -> str:
        """One line of blocks along the known keys: of `slot`, or of the recent load."""
        weights = self._recent
        if slot is not None:
            inside = self._newest is not None and 0 <= self._newest - slot < self._slots_max
            weights = self._grid[slot % self._slots_max] if inside else np.zeros_like(weights)
        return strip_of(weights, width)

    def _advance(self, slot: int) -> None:
        if self._newest is None:
            self._newest = slot
            return
        ahead = slot - self._newest
        if ahead <= 0:
            return
        for newer in range(max(self._newest + 1, slot - self._slots_max + 1), slot + 1):
            self._grid[newer % self._slots_max] = 0.0
        fade = self._fade**ahead
        self._recent *= fade
        for held in self._keys:
            for key in held:
                held[key] *= fade
        self._newest = slot

    def _weighted(self, start: bytes, end: bytes | None) -> list[tuple[bytes, float]]:
        """Keys remembered in the range, in order; those of a bucket carry its whole weight."""
        first = bisect_right(self._starts, start) - 1
        last = len(self._starts) if end is None else bisect_left(self._starts, end)
        found: list[tuple[bytes, float]] = []
        for at in range(first, max(last, first + 1)):
            held = self._keys[at]
            total = sum(held.values())
            if total <= 0:
                continue
            unit = float(self._recent[at]) / total
            found.extend(
                (key, weight * unit)
                for key, weight in sorted(held.items())
                if key >= start and (end is None or key < end)
            )
        return found

    def _fit(self) -> None:
        """Split hot buckets, then join cold ones, until the number of buckets fits."""
        self._since_fit = 0
        hot = 2.0 * float(self._recent.sum()) / self._buckets_max
        if hot <= 0:
            return
        for at in range(len(self._starts) - 1, -1, -1):
            if self._recent[at] > hot and len(self._keys[at]) >= 2:
                self._cut(at)
        while len(self._starts) > self._buckets_max:
            self._join(int(np.argmin(self._recent[:-1] + self._recent[1:])))

    def _copy(self) -> "AccessHeatmap":
        found = AccessHeatmap(self._buckets_max, self._slots_max)
        found._fade, found._newest = self._fade, self._newest
        found._starts, found._keys = list(self._starts), [dict(held) for held in self._keys]
        found._recent, found._grid = self._recent.copy(), self._grid.copy()
        return found

    def _cut(self, at: int) -> None:
        ordered = sorted(self._keys[at].items())
        weights = np.cumsum([weight for _, weight in ordered])
        cut = int(np.argmin(np.abs(weights[:-1] - weights[-1] / 2.0)))
        self._cut_at(separator(ordered[cut][0], ordered[cut + 1][0]))

    def _cut_at(self, start: bytes) -> None:
        """Make `start` a boundary; the remembered keys decide how the weight is divided."""
        at = bisect_right(self._starts, start) - 1
        if self._starts[at] == start:
            return
        left = {key: weight for key, weight in self._keys[at].items() if key < start}
        right = {key: weight for key, weight in self._keys[at].items() if key >= start}
        total = sum(left.values()) + sum(right.values())
        share = sum(left.values()) / total if total > 0 else 0.5
        self._starts.insert(at + 1, start)
        self._keys[at : at + 1] = [left, right]
        self._recent = np.insert(self._recent, at + 1, self._recent[at] * (1.0 - share))
        self._recent[at] *= share
        self._grid = np.insert(self._grid, at + 1, self._grid[:, at] * (1.0 - share), axis=1)
        self._grid[:, at] *= share

    def _join(self, at: int) -> None:
        del self._starts[at + 1]
        heavy = sorted((self._keys[at] | self._keys.pop(at + 1)).items(), key=lambda kw: -kw[1])
        self._keys[at] = dict(heavy[:KEYS_PER_BUCKET])
        self._recent[at] += self._recent[at + 1]
        self._recent = np.delete(self._recent, at + 1)
        self._grid[:, at] += self._grid[:, at + 1]
        self._grid = np.delete(self._grid, at + 1, axis=1)


def separator(left: bytes, right: bytes) -> bytes:
    """The shortest prefix of `right` that is greater than `left`; needs left < right."""
    for n in range(1, len(right) + 1):
        if right[:n] > left:
            return right[:n]
    raise ValueError(f"left is {left!r}, the limit is less than right, {right!r}")


def strip_of(values: npt.ArrayLike, width: int = 64) -> str:
    """Values as blocks ▁ to █ relative to the largest, joined or stretched to `width`
    characters."""
    found = np.asarray(values, dtype=np.float64)
    if width < 1 or not len(found):
        return ""
    if len(found) > width:
        edges = np.linspace(0, len(found), width + 1).astype(int)[:-1]
        found = np.maximum.reduceat(found, edges)
    elif len(found) < width:
        found = found[np.arange(width) * len(found) // width]
    top = float(found.max())
    if top <= 0:
        return BLOCKS[0] * width
    steps = np.ceil(found / top * (len(BLOCKS) - 1)).astype(int)
    return "".join(BLOCKS[step] for step in steps.tolist())


def _remember(held: dict[bytes, float], key: bytes, weight: float) -> None:
    if key in held or len(held) < KEYS_PER_BUCKET:
        held[key] = held.get(key, 0.0) + weight
        return
    # Space saving: the new key takes the place, and the weight, of the lightest.
    lightest = min(held, key=held.__getitem__)
    held[key] = held.pop(lightest) + weight
