"""One class per cause; callers import them from `logstore.errors`.

Every error names the field, the value and the limit where there is one, carries a stable `code`
and the gRPC `status` that other languages see, and says what the caller can do: `remedy` in words,
`retriable` (the same call may succeed later), `refresh_route` (the shard is elsewhere now),
`retry_after_ms` (not before that). docs/reference/errors.md is made from the classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from logstore.base.status import Status
from logstore.base.types import Ack

BY_CODE: dict[str, type["LogstoreError"]] = {}
"""Every class that has a code of its own, in the order of definition."""

PUBLIC_MODULE = "logstore.errors"


class LogstoreError(Exception):
    """Base of every error of this package; an error of this class itself is an unexpected fault.

    A subclass with a `code` of its own sets `status` and `remedy` too, else it is a TypeError. A
    subclass without one crosses a wire as the nearest base that has one.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[Status] = Status.INTERNAL
    remedy: ClassVar[str] = (
        "Report it: this is a fault of ours. The log of the process that failed shows where."
    )
    retriable: ClassVar[bool] = False
    refresh_route: ClassVar[bool] = False
    fields: ClassVar[Mapping[str, Any]] = {}
    """Attributes beyond these that cross a wire, each with its type."""

    def __init_subclass__(cls) -> None:
        if "code" in vars(cls):
            missing = [name for name in ("status", "remedy") if name not in vars(cls)]
            if missing:
                raise TypeError(f"{cls.__name__} has a code and no {' and no '.join(missing)}")
            if cls.code in BY_CODE:
                raise TypeError(
                    f"{cls.__name__} has the code of {BY_CODE[cls.code].__name__}: {cls.code}"
                )
            BY_CODE[cls.code] = cls
        if cls.__module__ == __name__:
            cls.__module__ = PUBLIC_MODULE

    def __init__(self, message: str, *, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms


BY_CODE[LogstoreError.code] = LogstoreError
LogstoreError.__module__ = PUBLIC_MODULE


class InvalidArgumentError(LogstoreError):
    """Bad input: the message names the field, the value and the limit."""

    code = "invalid_argument"
    status = Status.INVALID_ARGUMENT
    remedy = "Correct the argument that the message names."


class LimitExceededError(InvalidArgumentError):
    """A record, key, batch or header count is over a named limit."""

    code = "limit_exceeded"
    status = Status.INVALID_ARGUMENT
    remedy = "Send less at once, or split the record: the message has field, value and limit."

    @classmethod
    def of(cls, field: str, value: int, limit: int, unit: str) -> "LimitExceededError":
        return cls(f"{field} is {value} {unit}, the limit is {limit} {unit}")


class CorruptBatchError(InvalidArgumentError):
    """A batch whose checksum or structure does not hold."""

    code = "corrupt_batch"
    status = Status.INVALID_ARGUMENT
    remedy = "Encode the batch again; if our own client sent it, look for bad memory or a bad link."


class UnreadableBatchError(LogstoreError):
    """A batch is stored whole (checksum and chain hold) but holds no readable records:
    the same on every copy, and for ever. Names the offsets; reading goes on after them.
    """

    code = "unreadable_batch"
    status = Status.DATA_LOSS
    remedy = "Read on from the offset behind the ones that the message names."


class OutOfRangeError(InvalidArgumentError):
    """A key lies outside the shard, or an offset past the end or below the trim offset."""

    code = "out_of_range"
    status = Status.OUT_OF_RANGE
    remedy = "Read from an offset that is kept (`Log.trimmed`), or send the key to its own shard."


class WrongShardError(LogstoreError):
    """The batch holds keys outside the shard's range: the sender's map is old."""

    code = "wrong_shard"
    status = Status.FAILED_PRECONDITION
    remedy = "Fetch the routes again and send each record to its shard; our client does."
    retriable = True
    refresh_route = True


class ClientUseError(InvalidArgumentError):
    """A client is used in the wrong place: not opened, in another event loop than its own,
    or in a process that was forked after gRPC was used.
    """

    code = "client_use"
    status = Status.INVALID_ARGUMENT
    remedy = (
        "Open one client in each event loop and process; `connect_sync` serves several threads."
    )


class UnknownLogError(LogstoreError):
    """There is no such log, or the log was deleted; one of the same name is another log."""

    code = "unknown_log"
    status = Status.NOT_FOUND
    remedy = "Check the name with `logstore log list`; open the log again if it was made again."


class UnknownShardError(LogstoreError):
    """There is no such shard, or it is not on this instance."""

    code = "unknown_shard"
    status = Status.NOT_FOUND
    remedy = "Fetch the routes again; check the name with `logstore shards LOG`."
    refresh_route = True


class UnknownInstanceError(LogstoreError):
    """No instance of that name is registered, or it is not in the state that the call needs."""

    code = "unknown_instance"
    status = Status.NOT_FOUND
    remedy = "Check the name with `logstore instances`."


class UnknownMigrationError(LogstoreError):
    """There is no move, split or merge with that id."""

    code = "unknown_migration"
    status = Status.NOT_FOUND
    remedy = "Check the id with `logstore migrations`."


class AlreadyExistsError(LogstoreError):
    """A log, a copy or an operation of that name exists."""

    code = "already_exists"
    status = Status.ALREADY_EXISTS
    remedy = "Use what exists, or choose another name."


class FencedError(LogstoreError):
    """The message carries an older epoch, or this instance no longer leads the shard."""

    code = "fenced"
    status = Status.FAILED_PRECONDITION
    remedy = "Fetch the routes again and repeat; our client does."
    retriable = True
    refresh_route = True


class ShardSealedError(LogstoreError):
    """The shard was sealed before the append: it is not stored there and never will be (S5).

    Its keys belong to the shard's successors now.
    """

    code = "sealed"
    status = Status.FAILED_PRECONDITION
    remedy = "Fetch the routes again and append to the successors; our client does."
    retriable = True
    refresh_route = True


class NotServingError(LogstoreError):
    """The replica cannot serve now: starting, behind, or without a heartbeat."""

    code = "not_serving"
    status = Status.UNAVAILABLE
    remedy = "Fetch the routes again and repeat after a pause; our client does."
    retriable = True
    refresh_route = True


class UnavailableError(LogstoreError):
    """A party cannot be reached, or the operation ran out of time; its outcome may be unknown."""

    code = "unavailable"
    status = Status.UNAVAILABLE
    remedy = "Repeat after a pause; check that the address answers (`logstore doctor`)."
    retriable = True
    refresh_route = True


class NotServedHereError(LogstoreError):
    """This process does not have the call: it is of another kind or version."""

    code = "not_served_here"
    status = Status.UNIMPLEMENTED
    remedy = "Ask a process of the right kind, or bring both to one version."


class InstanceDownError(UnavailableError):
    """An order needs an instance that does not answer; nothing was begun.

    Not retriable blindly: it waits for a person, or for the instance to come back.
    """

    code = "instance_down"
    status = Status.FAILED_PRECONDITION
    remedy = "Start the instance, or order it for another one."
    retriable = False
    refresh_route = False


class OutcomeUnknownError(UnavailableError):
    """An append may or may not be stored: it was sent, and no answer came in time.

    Not retriable blindly: appending again may store it twice; read to find out.
    """

    code = "outcome_unknown"
    status = Status.DEADLINE_EXCEEDED
    remedy = "Read the key to find out whether the record is there, before it is appended again."
    retriable = False


class ClientClosedError(UnavailableError):
    """The client was closed, before the call or during it; no retry can help."""

    code = "client_closed"
    status = Status.CANCELLED
    remedy = "Open a new client with `connect`."
    retriable = False
    refresh_route = False


class OverloadedError(LogstoreError):
    """A queue is full or the instance is over its capacity; carries `retry_after_ms`."""

    code = "overloaded"
    status = Status.RESOURCE_EXHAUSTED
    remedy = "Repeat after `retry_after_ms`; our client does."
    retriable = True


class OutOfSequenceError(LogstoreError):
    """A producer's batch came before its predecessor; resend from the first unacked."""

    code = "out_of_sequence"
    status = Status.ABORTED
    remedy = "Send again from the first batch that was not acked; our client does."
    retriable = True


class VersionConflictError(LogstoreError):
    """`expected_version` is not the number of records that the key has.

    Counts never fall, so with more records than expected no copy of the append can succeed later.
    """

    code = "version_conflict"
    status = Status.FAILED_PRECONDITION
    remedy = "Read the key, decide again, and append with its new count of records."


class VersionAheadError(VersionConflictError):
    """The key has fewer records than `expected_version`; the others may still come."""

    code = "version_ahead"
    status = Status.FAILED_PRECONDITION
    remedy = "Read the key; the records that were expected may be on their way."


class AppendManyError(LogstoreError):
    """Some rows of an `append_many` were not stored. Row ranges are half-open, ascending.

    `stored` rows are acked (`acks`, in the order of the batches), `not_stored` ones surely are not
    in the log, `unknown` ones may be (their calls ran out of time). `cause` is the first failure.
    """

    code = "append_many"
    status = Status.ABORTED
    remedy = "Append the rows in `not_stored` again; read to find out about those in `unknown`."
    fields: ClassVar[Mapping[str, Any]] = {
        "stored": list[tuple[int, int]],
        "not_stored": list[tuple[int, int]],
        "unknown": list[tuple[int, int]],
        "acks": list[Ack],
        "cause": LogstoreError | None,
    }

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
    status = Status.INTERNAL
    remedy = "Look at the disk that the message names."


class StorageFullError(StorageError):
    """No space is left; the append was not stored, the process serves on."""

    code = "storage_full"
    status = Status.RESOURCE_EXHAUSTED
    remedy = "Free space on the disk, or move shards off the instance; then repeat."
    retriable = True


class CorruptStorageError(StorageError):
    """What the disk returns is not what was written. Never served, never skipped."""

    code = "corrupt_storage"
    status = Status.DATA_LOSS
    remedy = "Let the copy be rebuilt from a whole one: `logstore doctor` says how."
    fields: ClassVar[Mapping[str, Any]] = {"offset": int | None}
    offset: int | None = None
    """The first offset of the log that could not be read, where the raiser knows it."""


class DivergedError(StorageError):
    """Two copies that must be equal are not; names the first batch that differs."""

    code = "diverged"
    status = Status.DATA_LOSS
    remedy = "Keep both copies and report it; `logstore verify SHARD` compares them."


class ConflictError(LogstoreError):
    """A compare-and-swap found another revision than the decision was read from."""

    code = "conflict"
    status = Status.ABORTED
    remedy = "Read again, decide again, write again."
    retriable = True


class LeaseLostError(LogstoreError):
    """The metadata lease has ended; another process may hold its rights now."""

    code = "lease_lost"
    status = Status.FAILED_PRECONDITION
    remedy = "Stop what was done under the lease; take it again first."


class IllegalTransitionError(LogstoreError):
    """A state machine was asked for a step its table does not have; carries the story."""

    code = "illegal_transition"
    status = Status.FAILED_PRECONDITION
    remedy = "Look at the present state (`logstore migrations ID`) and order what it allows."


class RefusedError(LogstoreError):
    """The order would leave the cluster without room or with less safety; says why."""

    code = "refused"
    status = Status.FAILED_PRECONDITION
    remedy = "Give the cluster what the message says is missing, or order less."


class ConfigError(LogstoreError):
    """A setting is missing or out of bounds; names the field, value, unit and bound."""

    code = "config"
    status = Status.FAILED_PRECONDITION
    remedy = "Correct the setting that the message names, and start again."


class WrongClusterError(LogstoreError):
    """A data directory, a metadata store or a caller belongs to another cluster or instance, or
    the metadata is older than what the instance acted on. Nothing was written or served."""

    code = "wrong_cluster"
    status = Status.FAILED_PRECONDITION
    remedy = (
        "Put the right folder and metadata together; `logstore doctor` says what belongs where."
    )


class AlreadyRunningError(LogstoreError):
    """Another process runs the instance of this name; nothing was written."""

    code = "already_running"
    status = Status.FAILED_PRECONDITION
    remedy = "Stop the other process, or give this instance another name."


class AddressInUseError(ConfigError):
    """The address to listen on is taken by another process, or may not be bound."""

    code = "address_in_use"
    status = Status.FAILED_PRECONDITION
    remedy = "Choose another address, or stop the process that listens there."


class DirectoryInUseError(ConfigError):
    """The data directory is held open by another process."""

    code = "directory_in_use"
    status = Status.FAILED_PRECONDITION
    remedy = "Choose another directory, or stop the process that has it open."


def from_code(code: str, message: str, retry_after_ms: int = 0) -> LogstoreError:
    """Rebuild an error that crossed a wire; an unknown code becomes the base class."""
    return BY_CODE.get(code, LogstoreError)(message, retry_after_ms=retry_after_ms)
