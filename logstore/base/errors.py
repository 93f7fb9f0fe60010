"""One class per cause. A gRPC status is attached only at the edge (`logstore.proto.status`).

Every error says the field, the value and the limit where there is one, carries a stable `code`,
and tells the caller what to do: `retriable` (the same call may succeed later), `refresh_route`
(the shard is elsewhere now), `retry_after_ms` (not before that).
"""

from collections.abc import Sequence
from typing import ClassVar

from logstore.base.types import Ack


class LogstoreError(Exception):
    """Base of every error that this package raises at its doors."""

    code: ClassVar[str] = "internal"
    retriable: ClassVar[bool] = False
    refresh_route: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms


class InvalidArgumentError(LogstoreError):
    """Bad input: the message names the field, the value and the limit."""

    code = "invalid_argument"


class LimitExceededError(InvalidArgumentError):
    """A record, key, batch or header count is over a named limit."""

    code = "limit_exceeded"

    @classmethod
    def of(cls, field: str, value: int, limit: int, unit: str) -> "LimitExceededError":
        return cls(f"{field} is {value} {unit}, the limit is {limit} {unit}")


class CorruptBatchError(InvalidArgumentError):
    """A batch whose checksum or structure does not hold."""

    code = "corrupt_batch"


class UnreadableBatchError(LogstoreError):
    """A batch is stored whole (checksum and chain hold) and yet holds no records that can be read:
    the same on every copy, and for ever. Names the offsets; reading goes on behind them.
    """

    code = "unreadable_batch"


class OutOfRangeError(InvalidArgumentError):
    """A key lies outside the shard, or an offset past the end or below the trim offset."""

    code = "out_of_range"


class WrongShardError(LogstoreError):
    """The batch holds keys outside the shard's range: the sender's map is old."""

    code = "wrong_shard"
    retriable = True
    refresh_route = True


class ClientUseError(InvalidArgumentError):
    """A client is used where it does not belong: not opened, in another event loop than its own,
    or in a process that was forked after gRPC was used.
    """

    code = "client_use"


class UnknownLogError(LogstoreError):
    """There is no such log, or the log was deleted; one of the same name is another log."""

    code = "unknown_log"


class UnknownShardError(LogstoreError):
    code = "unknown_shard"
    refresh_route = True


class UnknownInstanceError(LogstoreError):
    code = "unknown_instance"


class UnknownMigrationError(LogstoreError):
    code = "unknown_migration"


class AlreadyExistsError(LogstoreError):
    code = "already_exists"


class FencedError(LogstoreError):
    """The message carries an older epoch, or this instance no longer leads the shard."""

    code = "fenced"
    retriable = True
    refresh_route = True


class ShardSealedError(LogstoreError):
    """The shard was sealed before the append: it is not stored there and never will be (S5).

    Its keys belong to the shard's successors now.
    """

    code = "sealed"
    retriable = True
    refresh_route = True


class NotServingError(LogstoreError):
    """The replica cannot serve now: starting, behind, or without a heartbeat."""

    code = "not_serving"
    retriable = True
    refresh_route = True


class UnavailableError(LogstoreError):
    """A party cannot be reached, or the operation ran out of time; its outcome may be unknown."""

    code = "unavailable"
    retriable = True
    refresh_route = True


class NotServedHereError(LogstoreError):
    """The process that was asked does not have this call: it is of another kind or version."""

    code = "not_served_here"


class InstanceDownError(UnavailableError):
    """What was ordered needs an instance that gives no answer; nothing was begun.

    Not retriable blindly: it waits for a person, or for the instance to come back.
    """

    code = "instance_down"
    retriable = False
    refresh_route = False


class OutcomeUnknownError(UnavailableError):
    """An append may or may not be stored: it was sent, and no answer came in time.

    Not retriable blindly: appending again may store it twice; read to find out.
    """

    code = "outcome_unknown"
    retriable = False


class ClientClosedError(UnavailableError):
    """The client was closed, before the call or during it; no retry can help."""

    code = "client_closed"
    retriable = False
    refresh_route = False


class OverloadedError(LogstoreError):
    """A queue is full or the instance is over its capacity; carries `retry_after_ms`."""

    code = "overloaded"
    retriable = True


class OutOfSequenceError(LogstoreError):
    """A producer's batch came before its predecessor; resend from the first unacked."""

    code = "out_of_sequence"
    retriable = True


class VersionConflictError(LogstoreError):
    """`expected_version` is not the number of records that the key has.

    Counts never fall, so with more records than expected no copy of the append can succeed later.
    """

    code = "version_conflict"


class VersionAheadError(VersionConflictError):
    """The key has fewer records than `expected_version`: it may get them yet."""

    code = "version_ahead"


class AppendManyError(LogstoreError):
    """Some rows of an `append_many` were not stored. Row ranges are half-open, ascending.

    `stored` rows are acked (`acks`, in the order of the batches), `not_stored` ones surely are not
    in the log, of `unknown` ones nobody can say (the calls ran out of time). `cause` is the first
    failure.
    """

    code = "append_many"

    def __init__(
        self,
        message: str,
        *,
        retry_after_ms: int = 0,
        stored: Sequence[tuple[int, int]] = (),
        not_stored: Sequence[tuple[int, int]] = (),
        unknown: Sequence[tuple[int, int]] = (),
        acks: Sequence[Ack] = (),
        cause: LogstoreError | None = None,
    ) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.stored = list(stored)
        self.not_stored = list(not_stored)
        self.unknown = list(unknown)
        self.acks = list(acks)
        self.cause = cause


class StorageError(LogstoreError):
    """The disk refused: full, failing, or corrupt. The message names the path."""

    code = "storage"


class StorageFullError(StorageError):
    """No space is left; the append was not stored, the process serves on."""

    code = "storage_full"
    retriable = True


class CorruptStorageError(StorageError):
    """What the disk returns is not what was written. Never served, never skipped."""

    code = "corrupt_storage"
    offset: int | None = None
    """The first offset of the log that could not be read, where the raiser knows it."""


class DivergedError(StorageError):
    """Two copies that must be equal are not; names the first batch that differs."""

    code = "diverged"


class ConflictError(LogstoreError):
    """A compare-and-swap found another revision than the decision was read from."""

    code = "conflict"
    retriable = True


class LeaseLostError(LogstoreError):
    """The metadata lease has ended; what was held under it belongs to nobody or to another."""

    code = "lease_lost"


class IllegalTransitionError(LogstoreError):
    """A state machine was asked for a step its table does not have; carries the story."""

    code = "illegal_transition"


class RefusedError(LogstoreError):
    """What was asked for would leave the cluster without room or with less safety; says why."""

    code = "refused"


class ConfigError(LogstoreError):
    """A setting is missing or out of bounds; names the field, value, unit and bound."""

    code = "config"


class WrongClusterError(LogstoreError):
    """A data directory, a metadata store or a caller belongs to another cluster or instance, or
    the metadata lacks what was acted on. Nothing was written or served."""

    code = "wrong_cluster"


class AlreadyRunningError(LogstoreError):
    """Another process runs the instance of this name; nothing was written."""

    code = "already_running"


class AddressInUseError(ConfigError):
    code = "address_in_use"


class DirectoryInUseError(ConfigError):
    code = "directory_in_use"


def _all_subclasses(root: type[LogstoreError]) -> list[type[LogstoreError]]:
    found = [root]
    for sub in root.__subclasses__():
        found.extend(_all_subclasses(sub))
    return found


BY_CODE: dict[str, type[LogstoreError]] = {cls.code: cls for cls in _all_subclasses(LogstoreError)}


def from_code(code: str, message: str, retry_after_ms: int = 0) -> LogstoreError:
    """Rebuild an error that crossed a wire; an unknown code becomes the base class."""
    return BY_CODE.get(code, LogstoreError)(message, retry_after_ms=retry_after_ms)
