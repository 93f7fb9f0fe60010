"""Leases: their ends, and the keys under them. Pure: `now_s` is an argument.

The memory twin and the embedded store keep one `LeaseTable`; etcd has its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from logstore.base.errors import InvalidArgumentError, LeaseLostError, LimitExceededError
from logstore.meta.port import LEASE_DRIFT, LEASE_TTL_S_MAX, LEASE_TTL_S_MIN, Lease

LEASES_MAX = 10_000


@dataclass(slots=True)
class _Lease:
    ttl_s: float
    until_s: float
    keys: set[str] = field(default_factory=set)


def check_ttl(ttl_s: float) -> None:
    """`InvalidArgumentError` outside of the port's bounds (a NaN included)."""
    if not LEASE_TTL_S_MIN <= ttl_s <= LEASE_TTL_S_MAX:
        raise InvalidArgumentError(
            f"lease.ttl_s is {ttl_s:g} s, the limit is {LEASE_TTL_S_MIN:g} to {LEASE_TTL_S_MAX:g} s"
        )


class LeaseTable:
    """Leases with their ends on the store's monotonic clock."""

    def __init__(self) -> None:
        self._held: dict[int, _Lease] = {}
        self._lease_of: dict[str, int] = {}

    def restore(self, ttls_s: Mapping[int, float], keys: Mapping[str, int], now_s: float) -> None:
        """After a restart the last keep-alive is unknown: wait a full lease (P7)."""
        for lease, ttl_s in ttls_s.items():
            self._held[lease] = _Lease(ttl_s, now_s + ttl_s * (1 + LEASE_DRIFT))
        for key, lease in keys.items():
            self.attach(key, lease)

    def check_room(self) -> None:
        if len(self._held) >= LEASES_MAX:
            raise LimitExceededError.of("leases", len(self._held) + 1, LEASES_MAX, "leases")

    def grant(self, lease: Lease, now_s: float) -> None:
        self._held[lease.id] = _Lease(lease.ttl_s, now_s + lease.ttl_s)

    def keep_alive(self, lease: int, now_s: float) -> Lease:
        held = self._alive(lease, now_s)
        held.until_s = now_s + held.ttl_s
        return Lease(lease, held.ttl_s)

    def check_alive(self, lease: int, now_s: float) -> None:
        """`LeaseLostError` from the moment of its end, whether its keys are deleted yet or not."""
        self._alive(lease, now_s)

    def attach(self, key: str, lease: int) -> None:
        """Put `key` under `lease` and no other; 0: under none."""
        before = self._lease_of.pop(key, 0)
        if before:
            self._held[before].keys.discard(key)
        if lease:
            self._held[lease].keys.add(key)
            self._lease_of[key] = lease

    def lease_of(self, key: str) -> int:
        return self._lease_of.get(key, 0)

    def keys(self, lease: int) -> list[str]:
        """Its keys in key order; empty when there is no such lease."""
        held = self._held.get(lease)
        return sorted(held.keys) if held is not None else []

    def drop(self, lease: int) -> None:
        for key in self.keys(lease):
            self.attach(key, 0)
        self._held.pop(lease, None)

    def __contains__(self, lease: object) -> bool:
        return lease in self._held

    def due(self, now_s: float) -> list[int]:
        """Leases that have ended, the earliest first."""
        ended = [(held.until_s, lease) for lease, held in self._held.items()]
        return [lease for until_s, lease in sorted(ended) if until_s <= now_s]

    def next_end_s(self) -> float | None:
        return min((held.until_s for held in self._held.values()), default=None)

    def _alive(self, lease: int, now_s: float) -> _Lease:
        held = self._held.get(lease)
        if held is None or held.until_s <= now_s:
            raise LeaseLostError(f"lease {lease} has ended")
        return held
