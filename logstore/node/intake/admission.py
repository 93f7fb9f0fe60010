"""Admission: an instance takes no more than the capacity it states. Token buckets, pure."""

from dataclasses import dataclass, field

from logstore.base.errors import OverloadedError, StorageFullError


@dataclass(slots=True)
class Bucket:
    """`rate` units/s, up to `burst` units saved; `None` admits everything."""

    rate: float | None
    burst_s: float = 1.0
    _tokens: float = 0.0
    _at_s: float | None = None

    def wait_s(self, units: float, now_s: float) -> float:
        """Seconds until `units` may pass; 0 when they may now. A request over the burst may pass
        when the bucket is full."""
        if self.rate is None:
            return 0.0
        burst = self.rate * self.burst_s
        if self._at_s is None:
            self._tokens = burst
        else:
            self._tokens = min(burst, self._tokens + (now_s - self._at_s) * self.rate)
        self._at_s = now_s
        missing = min(units, burst) - self._tokens
        return max(0.0, missing / self.rate)

    def take(self, units: float) -> None:
        """Use `units` (the level may go below zero for a request over the burst)."""
        if self.rate is not None:
            self._tokens -= units


@dataclass(slots=True)
class Admission:
    """The instance's stated capacity in operations/s, bytes/s and stored bytes.

    `stored_bytes` is what the disk holds, as measured last, and what was admitted since.
    """

    ops_per_s: float | None
    bytes_per_s: float | None
    burst_s: float = 1.0
    stored_bytes_max: int | None = None
    stored_bytes: int = 0
    throttled: int = 0
    _ops: Bucket = field(init=False)
    _bytes: Bucket = field(init=False)

    def __post_init__(self) -> None:
        self._ops = Bucket(self.ops_per_s, self.burst_s)
        self._bytes = Bucket(self.bytes_per_s, self.burst_s)

    def admit(self, operations: int, size: int, now_s: float) -> None:
        """Take the request or raise OverloadedError with the delay after which it would pass."""
        if self.ops_per_s is None and self.bytes_per_s is None:
            return
        wait = max(self._ops.wait_s(operations, now_s), self._bytes.wait_s(size, now_s))
        if wait > 0:
            self.throttled += operations
            raise OverloadedError(
                f"over capacity ({self.ops_per_s} ops/s, {self.bytes_per_s} bytes/s)",
                retry_after_ms=max(1, round(wait * 1e3)),
            )
        self._ops.take(operations)
        self._bytes.take(size)

    def store(self, size: int) -> None:
        """Take an append of `size` bytes onto the disk or raise StorageFullError."""
        limit = self.stored_bytes_max
        if limit is not None and self.stored_bytes + size > limit:
            raise StorageFullError(
                f"stored_bytes is {self.stored_bytes}, with this append {self.stored_bytes + size};"
                f" the instance's limit stored_bytes_max is {limit}"
            )
        self.stored_bytes += size
