"""Operations of each copy over the last seconds, for the guard rails of a move. No I/O.

A copy counts in two coarse slices; one that is being asked about counts in fine ones too.
"""

from collections import Counter, deque

from logstore.base.errors import (
    LogstoreError,
    NotServingError,
    OverloadedError,
    StorageError,
    UnavailableError,
)
from logstore.proto.v1 import node_pb2
from profiler.histogram import LatencyHistogram

FINE_SLICE_S = 0.25
FINE_SLICES = 60
COARSE_SLICE_S = 5.0
COARSE_SLICES = 2
WATCHED_FOR_S = 60.0
"""A copy counts in fine slices this long after it was last asked about."""
COPIES_MAX = 16_384
"""A copy beyond is not counted."""
FAILURES = (NotServingError, OverloadedError, StorageError, UnavailableError)
"""Answers that count against the instance; the others are mistakes, or belong elsewhere."""


class _CallSlice:
    __slots__ = ("appends", "at", "failed", "reads")

    def __init__(self, at: int) -> None:
        self.at = at
        self.reads = LatencyHistogram()
        self.appends = LatencyHistogram()
        self.failed: Counter[str] = Counter()


class _RecentSlices:
    """The newest slices of one copy, oldest first, each `slice_s` long."""

    __slots__ = ("_slices", "since_s", "slice_s")

    def __init__(self, slice_s: float, kept: int, now_s: float) -> None:
        self.slice_s, self.since_s = slice_s, now_s
        self._slices: deque[_CallSlice] = deque(maxlen=kept)

    def at(self, now_s: float) -> _CallSlice:
        """The slice that counts now."""
        at = int(now_s // self.slice_s)
        if not self._slices or self._slices[-1].at != at:
            self._slices.append(_CallSlice(at))
        return self._slices[-1]

    def since(self, from_s: float, now_s: float) -> tuple[float, list[_CallSlice]]:
        """Slices that begin at `from_s` or later, and the seconds they stand for; of the kept
        ones, the newest at least."""
        oldest = int(now_s // self.slice_s) - (self._slices.maxlen or 1) + 1
        first = max(oldest, -int(-from_s // self.slice_s))
        begin_s = max(self.since_s, first * self.slice_s)
        return max(0.0, now_s - begin_s), [s for s in self._slices if s.at >= first]


class _CopyCounts:
    __slots__ = ("asked_s", "coarse", "fine")

    def __init__(self, now_s: float) -> None:
        self.coarse = _RecentSlices(COARSE_SLICE_S, COARSE_SLICES, now_s)
        self.fine: _RecentSlices | None = None
        self.asked_s = now_s


class RecentOperations:
    """Counts per copy, by shard. Owned by the instance's loop; `now_s` is monotonic.

    A call counts once, whatever records it holds.
    """

    def __init__(self) -> None:
        self._copies: dict[str, _CopyCounts] = {}

    def read(self, shard: str, latency_s: float, now_s: float) -> None:
        """A read was answered, or given up by its client after `latency_s`."""
        for counting in self._counting(shard, now_s):
            counting.reads.add(latency_s, 1)

    def appended(self, shard: str, latency_s: float, now_s: float) -> None:
        for counting in self._counting(shard, now_s):
            counting.appends.add(latency_s, 1)

    def failed(self, shard: str, error: BaseException, now_s: float) -> None:
        """A call ended with an error; one that is not the instance's does not count."""
        if not isinstance(error, Exception):
            return
        if isinstance(error, LogstoreError) and not isinstance(error, FAILURES):
            return
        code = error.code if isinstance(error, LogstoreError) else "internal"
        for counting in self._counting(shard, now_s):
            counting.failed[code] += 1

    def forget(self, shard: str) -> None:
        """The copy has left this instance."""
        self._copies.pop(shard, None)

    def of(self, shard: str, seconds: float, now_s: float) -> node_pb2.RecentOperations:
        """The copy's operations of about the last `seconds`: `over_s` says how many they are."""
        copy = self._copies.get(shard)
        if copy is None:
            copy = self._new(shard, now_s)
            if copy is None:
                return node_pb2.RecentOperations()
        copy.asked_s = now_s
        fine = copy.fine
        if fine is None:
            fine = copy.fine = _RecentSlices(FINE_SLICE_S, FINE_SLICES, now_s)
        from_s = now_s - seconds
        over_s, slices = fine.since(from_s, now_s)
        if fine.since_s > from_s:
            over_s, slices = copy.coarse.since(from_s - COARSE_SLICE_S, now_s)
        return _sum(over_s, slices)

    def _new(self, shard: str, now_s: float) -> _CopyCounts | None:
        if len(self._copies) >= COPIES_MAX:
            return None
        copy = self._copies[shard] = _CopyCounts(now_s)
        return copy

    def _counting(self, shard: str, now_s: float) -> tuple[_CallSlice, ...]:
        copy = self._copies.get(shard) or self._new(shard, now_s)
        if copy is None:
            return ()
        if copy.fine is None:
            return (copy.coarse.at(now_s),)
        if now_s - copy.asked_s > WATCHED_FOR_S:
            copy.fine = None
            return (copy.coarse.at(now_s),)
        return copy.coarse.at(now_s), copy.fine.at(now_s)


def _sum(over_s: float, slices: list[_CallSlice]) -> node_pb2.RecentOperations:
    reads, appends = LatencyHistogram(), LatencyHistogram()
    failed: Counter[str] = Counter()
    for part in slices:
        reads.add_counts(part.reads.counts(), {})
        appends.add_counts(part.appends.counts(), {})
        failed.update(part.failed)
    return node_pb2.RecentOperations(
        over_s=over_s, reads=reads.counts(), appends=appends.counts(), failed=failed
    )
