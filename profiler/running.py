"""The fine clock: running totals of each copy on an instance, and the load between two. Pure.

A copy's totals only grow while its instance runs. Those that changed are reported each second,
whatever the planning period, and a lost report loses nothing: the next one holds it all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from profiler.histogram import LatencyHistogram
from profiler.types import OpType

SHARDS_MAX = 16_384
REPLICATED_COST = 0.7
"""What a follower spends on a record that it writes for its primary, where the primary spends 1 on
the append: CPU of both processes, 0.64 to 0.76 by size of records and batches."""


@dataclass(frozen=True, slots=True)
class ShardTotals:
    """One copy's operations since its instance began to count them, `age_s` ago.

    `counts` are the operations served, by type; `append_batches` requests brought the appends;
    `refused_count` operations were over capacity, and `failed_count` (with the refused ones) could
    not be served; `retried_count`, among the served and the refused, were sent again after a
    refusal. `replicated_count` records were written for the primary. `latency` counts operations by
    bucket of a `LatencyHistogram`, `total_s` is the sum of their response times. `sampled_keys` are
    those of the open slot `slot` so far; without any, the sample that was reported before still
    stands.
    """

    shard: str
    age_s: float
    counts: dict[OpType, int]
    bytes_in: int = 0
    bytes_out: int = 0
    failed_count: int = 0
    refused_count: int = 0
    retried_count: int = 0
    replicated_count: int = 0
    replicated_bytes: int = 0
    append_batches: int = 0
    stored_bytes: int = 0
    total_s: float = 0.0
    latency: dict[int, int] = field(default_factory=dict)
    slot: int | None = None
    sampled_keys: tuple[tuple[bytes, float], ...] = ()
    left: bool = False
    """The copy is not served by the instance any more; nothing else is said of it."""

    @property
    def query_count(self) -> int:
        return sum(self.counts.values())


class _Running:
    """The totals of one copy that still count."""

    __slots__ = ("append_batches", "bytes_in", "bytes_out", "counts", "failed", "latency",
                 "refused", "replicated", "replicated_bytes", "retried", "since_s",
                 "stored_bytes")  # fmt: skip

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.counts: dict[OpType, int] = {}
        self.bytes_in = self.bytes_out = 0
        self.failed = self.refused = self.retried = 0
        self.replicated = self.replicated_bytes = self.stored_bytes = 0
        self.append_batches = 0
        self.latency = LatencyHistogram()


class RunningTotals:
    """Counts each copy of an instance since it came. One event loop owns it; `now_s` is monotonic.

    A copy beyond `shards_max` is not counted.
    """

    def __init__(self, shards_max: int = SHARDS_MAX) -> None:
        self._shards_max = shards_max
        self._copies: dict[str, _Running] = {}
        self._touched: dict[str, None] = {}

    def _of(self, shard: str, now_s: float) -> _Running | None:
        found = self._copies.get(shard)
        if found is None:
            if len(self._copies) >= self._shards_max:
                return None
            found = self._copies[shard] = _Running(now_s)
        self._touched[shard] = None
        return found

    def served(
        self,
        shard: str,
        op: OpType,
        count: int,
        byte_count: int,
        latency_s: float,
        now_s: float,
        retried: int = 0,
        batches: int = 1,
    ) -> None:
        """`count` operations of `byte_count` bytes in all that took `latency_s` each; `retried` of
        them were refused before. Appends came in `batches` requests."""
        of = self._of(shard, now_s)
        if of is None:
            return
        of.counts[op] = of.counts.get(op, 0) + count
        if op is OpType.APPEND:
            of.bytes_in += byte_count
            of.append_batches += batches
        else:
            of.bytes_out += byte_count
        of.retried += retried
        of.latency.add(latency_s, count)

    def failed(
        self, shard: str, count: int, now_s: float, *, refused: bool = False, retried: bool = False
    ) -> None:
        """`count` operations were not served; `refused`: the copy's instance had no capacity."""
        of = self._of(shard, now_s)
        if of is not None:
            of.failed += count
            of.refused += count if refused else 0
            of.retried += count if refused and retried else 0

    def replicated(self, shard: str, count: int, byte_count: int, now_s: float) -> None:
        """Records were written for the primary."""
        of = self._of(shard, now_s)
        if of is not None:
            of.replicated += count
            of.replicated_bytes += byte_count

    def stored(self, shard: str, stored_bytes: int, now_s: float) -> None:
        """The copy's bytes on the disk now."""
        known = self._copies.get(shard)
        if known is None or known.stored_bytes != stored_bytes:
            of = self._of(shard, now_s)
            if of is not None:
                of.stored_bytes = stored_bytes

    def forget(self, shard: str) -> None:
        """The copy has left this instance."""
        if self._copies.pop(shard, None) is not None:
            self._touched[shard] = None

    def touched(self) -> list[str]:
        """The copies that changed since the last call."""
        found, self._touched = list(self._touched), {}
        return found

    def of(
        self,
        shard: str,
        now_s: float,
        slot: int | None = None,
        keys: tuple[tuple[bytes, float], ...] = (),
    ) -> ShardTotals:
        """A copy's totals now, with its open slot and the keys of it."""
        of = self._copies.get(shard)
        if of is None:
            return ShardTotals(shard, 0.0, {}, left=True)
        return ShardTotals(
            shard=shard,
            age_s=max(0.0, now_s - of.since_s),
            counts=dict(of.counts),
            bytes_in=of.bytes_in,
            bytes_out=of.bytes_out,
            failed_count=of.failed,
            refused_count=of.refused,
            retried_count=of.retried,
            replicated_count=of.replicated,
            replicated_bytes=of.replicated_bytes,
            append_batches=of.append_batches,
            stored_bytes=of.stored_bytes,
            total_s=of.latency.total_s,
            latency=of.latency.counts(),
            slot=slot,
            sampled_keys=keys,
        )


@dataclass(frozen=True, slots=True)
class CopyLoad:
    """The load of one copy, or of several together, over the last `over_s` seconds, per second.

    `offered_per_s` operations came, `admitted_per_s` of them were served and `refused_per_s` were
    over capacity; `retried_per_s`, among both, had been refused before. So what clients newly asked
    for is `new_per_s`. `replicated_per_s` records were written for the primary.
    """

    over_s: float = 0.0
    admitted_per_s: float = 0.0
    reads_per_s: float = 0.0
    refused_per_s: float = 0.0
    retried_per_s: float = 0.0
    failed_per_s: float = 0.0
    bytes_in_per_s: float = 0.0
    bytes_out_per_s: float = 0.0
    replicated_per_s: float = 0.0
    replicated_bytes_per_s: float = 0.0
    append_batches_per_s: float = 0.0
    stored_bytes: int = 0
    mean_ms: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    by_type_per_s: dict[OpType, float] = field(default_factory=dict)
    """The admitted ones."""

    @property
    def offered_per_s(self) -> float:
        return self.admitted_per_s + self.refused_per_s

    @property
    def new_per_s(self) -> float:
        """Operations that came for the first time."""
        return max(0.0, self.offered_per_s - self.retried_per_s)

    @property
    def bytes_per_s(self) -> float:
        return self.bytes_in_per_s + self.bytes_out_per_s + self.replicated_bytes_per_s


@dataclass(frozen=True, slots=True)
class ShardLoad:
    """A shard's present load: of all copies together, and of each, by instance."""

    whole: CopyLoad
    copies: dict[str, CopyLoad]


Span = tuple[ShardTotals | None, ShardTotals, float]
"""A copy's totals before (None: it had none), its totals now, and the seconds between."""


def load_between(spans: Sequence[Span]) -> CopyLoad:
    """The load of copies together; one that is new among them did nothing before it came."""
    load, buckets = _Sum(), LatencyHistogram()
    longest_s = max((over_s for _, _, over_s in spans), default=0.0)
    for before, now, over_s in spans:
        load.add(before, now, max(over_s if before is not None else longest_s, 1e-3))
        buckets.add_counts(now.latency, before.latency if before is not None else {})
    served = buckets.count
    return CopyLoad(
        **load.rates,
        by_type_per_s=load.by_type,
        over_s=longest_s,
        stored_bytes=sum(now.stored_bytes for _, now, _ in spans),
        mean_ms=1e3 * load.total_s / served if served else 0.0,
        p50_ms=buckets.percentile_s(0.5) * 1e3,
        p99_ms=buckets.percentile_s(0.99) * 1e3,
    )


class _Sum:
    """Rates added up over copies."""

    def __init__(self) -> None:
        self.total_s = 0.0
        self.rates: dict[str, float] = {}
        self.by_type: dict[OpType, float] = {}

    def add(self, before: ShardTotals | None, now: ShardTotals, over_s: float) -> None:
        was = before or ShardTotals(now.shard, 0.0, {})
        reads, reads_before = (t.query_count - t.counts.get(OpType.APPEND, 0) for t in (now, was))
        self.total_s += max(0.0, now.total_s - was.total_s)
        for op, count in now.counts.items():
            more = max(0, count - was.counts.get(op, 0)) / over_s
            self.by_type[op] = self.by_type.get(op, 0.0) + more
        for name, grown in (
            ("admitted_per_s", now.query_count - was.query_count),
            ("reads_per_s", reads - reads_before),
            ("refused_per_s", now.refused_count - was.refused_count),
            ("retried_per_s", now.retried_count - was.retried_count),
            ("failed_per_s", now.failed_count - was.failed_count),
            ("bytes_in_per_s", now.bytes_in - was.bytes_in),
            ("bytes_out_per_s", now.bytes_out - was.bytes_out),
            ("replicated_per_s", now.replicated_count - was.replicated_count),
            ("replicated_bytes_per_s", now.replicated_bytes - was.replicated_bytes),
            ("append_batches_per_s", now.append_batches - was.append_batches),
        ):
            self.rates[name] = self.rates.get(name, 0.0) + max(0, grown) / over_s


def is_older(before: ShardTotals, now: ShardTotals) -> bool:
    """Whether `before` is of the same count; else the copy, or its instance, began again."""
    pairs: Iterable[tuple[float, float]] = (
        (before.query_count, now.query_count),
        (before.failed_count, now.failed_count),
        (before.replicated_count, now.replicated_count),
        (before.age_s, now.age_s),
    )
    return all(was <= has for was, has in pairs)
