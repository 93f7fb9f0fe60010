"""AccessLog: the last sampled accesses in a numpy ring, for callers that want rows, not sums."""

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


class AccessLog:
    """A ring of `capacity` rows; each offered access is kept with probability `rate`.

    A 64-bit hash of the caller identifies a key, so the memory (29 bytes a row) does not depend
    on the keys.
    """

    def __init__(self, capacity: int, generator: np.random.Generator, rate: float = 1.0) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity} rows, the limit is at least 1")
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"rate is {rate}, the limit is 0 to 1")
        self.rate = rate
        self._generator = generator
        self._ring = np.zeros(capacity, dtype=ACCESS)
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
        capacity = len(self._ring)
        rows = rows[-capacity:]
        at = (self._written + np.arange(len(rows))) % capacity
        self._ring[at] = rows
        self._written += len(rows)

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
        capacity = len(self._ring)
        if self._written <= capacity:
            held = self._ring[: self._written].copy()
        else:
            held = np.roll(self._ring, -(self._written % capacity))
        return held if since_us is None else held[held["time_us"] >= since_us]
