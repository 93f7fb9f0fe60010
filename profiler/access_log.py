"""AccessLog: sampled accesses in a numpy ring, for callers that want rows, not sums."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from profiler.types import OpType

OPS = tuple(OpType)
ACCESS = np.dtype(
    [
        ("time_us", np.int64),
        ("key_hash", np.uint64),
        ("op", np.uint8),  # index into OPS
        ("size_bytes", np.uint32),
        ("latency_us", np.float32),
        ("weight", np.float32),  # number of accesses that the row stands for
    ]
)

LEVELS = 16
"""Of a log that thins: rows of level n stand for 2^n times as many accesses as new ones."""


class AccessLog:
    """A ring of `capacity` rows; each offered access is kept with probability `rate`.

    A 64-bit hash of the caller identifies a key, so the memory (29 bytes a row) does not depend
    on the keys; a caller that wants more of a row gives it a label. When full, the newest row
    replaces the oldest. With `thins` the past grows sparser instead: rows have LEVELS, and the
    oldest of a full level go to the next one with probability 1/2 and count double, so estimates
    stay unbiased and the log reaches back 2^LEVELS times as far (Datar's exponential histogram).
    """

    def __init__(
        self,
        capacity: int,
        generator: np.random.Generator,
        rate: float = 1.0,
        *,
        thins: bool = False,
    ) -> None:
        least = 2 * LEVELS if thins else 1
        if capacity < least:
            raise ValueError(f"capacity is {capacity} rows, the limit is at least {least}")
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"rate is {rate}, the limit is 0 to 1")
        self.rate = rate
        self._generator = generator
        self._ring = np.zeros(capacity, dtype=ACCESS)
        self._labels: np.ndarray[Any, np.dtype[np.object_]] = np.empty(capacity, dtype=object)
        self._level = np.zeros(capacity, dtype=np.uint8)
        self._room = capacity // LEVELS if thins else capacity
        """Rows of a level."""
        self._fresh = 0
        """Rows of level 0."""
        self._thins = thins
        self._written = 0
        self.offered_count = 0

    def __len__(self) -> int:
        return min(self._written, len(self._ring))

    def record_batch(
        self,
        op: OpType,
        time_us: npt.NDArray[np.int64],
        key_hash: npt.NDArray[np.uint64],
        size_bytes: npt.NDArray[np.int64] | int,
        latency_s: float,
    ) -> None:
        """One batch of accesses, an element of `time_us` and `key_hash` for each."""
        n = len(time_us)
        if len(key_hash) != n:
            raise ValueError(f"key_hash has {len(key_hash)} elements, time_us has {n}")
        self.offered_count += n
        rows = np.zeros(n, dtype=ACCESS)
        rows["time_us"], rows["key_hash"], rows["op"] = time_us, key_hash, OPS.index(op)
        rows["size_bytes"], rows["latency_us"] = size_bytes, latency_s * 1e6
        rows["weight"] = 1.0 / self.rate
        if self.rate < 1.0:
            rows = rows[self._generator.random(n) < self.rate]
        self._add(rows, [None] * len(rows))

    def record_rows(self, rows: npt.NDArray[np.void], labels: Sequence[object]) -> None:
        """Rows of dtype ACCESS that the caller has sampled and weighed, with a label for each."""
        if len(labels) != len(rows):
            raise ValueError(f"labels has {len(labels)} elements, rows has {len(rows)}")
        self.offered_count += len(rows)
        self._add(rows, labels)

    def _add(self, rows: npt.NDArray[np.void], labels: Sequence[object]) -> None:
        while len(rows):
            if self._thins and self._fresh >= self._room:
                self._thin()
            n = min(self._room - self._fresh if self._thins else self._room, len(rows))
            at = (self._written + np.arange(n)) % len(self._ring)
            self._ring[at], self._labels[at] = rows[:n], list(labels[:n])
            self._level[at] = 0
            self._written += n
            self._fresh += n if self._thins else 0
            rows, labels = rows[n:], labels[n:]

    def _thin(self) -> None:
        """Make room in each level that is full: its older half goes on to the next."""
        rows, level = self._ring[: self._written], self._level[: self._written]
        kept = np.ones(self._written, dtype=np.bool_)
        for number in range(LEVELS):
            at = np.flatnonzero((level == number) & kept)
            if len(at) < self._room:
                break
            old = at[: len(at) - self._room // 2]
            goes_on = self._generator.random(len(old)) < (0.5 if number < LEVELS - 1 else 0.0)
            kept[old[~goes_on]] = False
            level[old[goes_on]] += 1
            rows["weight"][old[goes_on]] *= 2.0
        self._written, self._fresh = int(kept.sum()), self._room // 2
        for held in (self._ring, self._labels, self._level):
            held[: self._written] = held[: len(kept)][kept]
        self._labels[self._written :] = None

    def replay(
        self,
        time_s: npt.NDArray[np.float64],
        key_hash: npt.NDArray[np.uint64],
        op: npt.NDArray[np.str_],
        size_bytes: npt.NDArray[np.int64],
    ) -> None:
        """A recorded stream, columns of one length, in the order in which it happened.

        `op` holds OpType values, any case; ValueError names an unknown one.
        """
        named = np.char.lower(op.astype(np.str_))
        unknown = set(np.unique(named).tolist()) - {str(kind) for kind in OPS}
        if unknown:
            raise ValueError(f"op is {min(unknown)!r}, the limit is {[str(o) for o in OPS]}")
        for kind in OPS:
            at = named == str(kind)
            if at.any():
                time_us = np.round(time_s[at] * 1e6).astype(np.int64)
                self.record_batch(kind, time_us, key_hash[at], size_bytes[at], 0.0)

    def rows(self, since_us: int | None = None) -> npt.NDArray[np.void]:
        """A copy of the rows, oldest first, of dtype ACCESS; from `since_us` on if given."""
        return self.labelled_rows(since_us)[0]

    def labelled_rows(self, since_us: int | None = None) -> tuple[npt.NDArray[np.void], list[Any]]:
        """As `rows`, with the label of each row; None where none was given."""
        capacity = len(self._ring)
        if self._written <= capacity:
            at = np.arange(self._written)
        else:
            at = (self._written + np.arange(capacity)) % capacity
        rows = self._ring[at]
        if since_us is not None:
            late = rows["time_us"] >= since_us
            rows, at = rows[late], at[late]
        return rows, self._labels[at].tolist()
