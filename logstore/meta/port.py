"""The MetadataStore port: the only place that holds truth, changed by compare-and-swap (I9).

Adapters: `memory` (twin, for tests and simulation), `rocks` (embedded, behind one coordinator),
`remote` (an instance's view of the coordinator's store), `etcd`. One contract suite runs over all.
`election` builds leadership on leases; docs/design/0002-metadata.md says what a lease assumes.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

VALUE_BYTES_MAX = 1_000_000
TXN_OPERATIONS_MAX = 128
TXN_BYTES_MAX = 1_250_000
"""Keys and values of one transaction together; etcd refuses a request over 1.5 MB."""
LEASE_TTL_S_MIN = 0.1
LEASE_TTL_S_MAX = 3600.0
LEASE_DRIFT = 0.01
"""How far two monotonic clocks may disagree over one lease, as a share of its length (P7)."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """A value and the store revision that wrote it (etcd's mod_revision)."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class RangeResult:
    """All keys under a prefix in key order, read at one `revision` of the whole store."""

    items: tuple[Versioned, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Compare:
    """Holds when `key`'s revision equals `revision`; 0 means the key is absent."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """`lease`: the key is deleted when that lease ends; 0 frees it from its lease."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


Operation = Put | Delete


@dataclass(frozen=True, slots=True)
class TxnResult:
    """`revision` is the store's after the transaction; nothing was written if not `succeeded`."""

    succeeded: bool
    revision: int


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A change of `key`; `value=None` is a deletion. Events come in revision order."""

    key: str
    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Lease:
    """`ttl_s`: seconds that each keep-alive buys; never less than requested."""

    id: int
    ttl_s: float


class MetadataStore(Protocol):
    """Linearizable reads; atomic transactions; resumable watches; leases. Keys start with "/".

    Errors: `UnavailableError` when the store cannot be reached (the outcome of a transaction is
    then unknown and must be resolved by reading); `LimitExceededError` for a value or transaction
    over the limits above; `LeaseLostError` for a put under a lease that ended (nothing is written).
    """

    async def get(self, key: str) -> Versioned | None:
        """The current value, read linearizably."""
        ...

    async def range(self, prefix: str) -> RangeResult:
        """Every key that starts with `prefix`, at one revision."""
        ...

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        """Apply all operations if all compares hold, else none."""
        ...

    def watch(self, prefix: str, after_revision: int) -> AsyncIterator[tuple[WatchEvent, ...]]:
        """Changes under `prefix` with a revision above `after_revision`, without a gap.

        The changes of one revision come together, whatever breaks: a watcher that saw a part of a
        transaction and went on after its revision would never see the rest.

        When history before it was compacted, raises `ConflictError`: range and watch again.
        """
        ...

    async def lease_grant(self, ttl_s: float) -> Lease:
        """A new lease; `ttl_s` outside of LEASE_TTL_S_MIN..MAX is InvalidArgumentError.

        The store ends it `Lease.ttl_s` after it last *received* the grant or a keep-alive, or
        later, and then deletes its keys in one revision. Its holder counts from *sending* and
        with LEASE_DRIFT less, so it stops before the store can have ended it (P7).
        """
        ...

    async def lease_keep_alive(self, lease: int) -> Lease:
        """Buy another `ttl_s`; `LeaseLostError` when the lease has ended."""
        ...

    async def lease_revoke(self, lease: int) -> None:
        """End it now and delete its keys; an ended one is ignored."""
        ...

    async def close(self) -> None: ...
