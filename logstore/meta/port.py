"""The MetadataStore port: the only place that holds truth, changed by compare-and-swap (I9).

Adapters: `memory` (twin, for tests and simulation), `rocks` (embedded, behind one coordinator),
`remote` (an instance's view of the coordinator's store), `etcd`. One contract suite runs over all.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

VALUE_BYTES_MAX = 1_000_000
TXN_OPERATIONS_MAX = 128


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
    key: str
    value: bytes


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


class MetadataStore(Protocol):
    """Linearizable reads; atomic transactions; resumable watches.

    Errors: `UnavailableError` when the store cannot be reached (the outcome of a transaction is
    then unknown and must be resolved by reading); `LimitExceededError` for a value or transaction
    over the limits above.
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

        The changes of one revision come together, whatever breaks: who saw a part of a transaction
        and went on after its revision would never see the rest.

        When history before it was compacted, raises `ConflictError`: range and watch again.
        """
        ...

    async def close(self) -> None: ...
