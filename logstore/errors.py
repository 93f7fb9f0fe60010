"""Every error that logstore raises, one class per cause; all are `LogstoreError`.

    try:
        await log.append(b"user-1", b"...", expected_version=3)
    except logstore.errors.VersionConflictError:
        ...  # another append came first: read again, decide again

Catch a class for its cause, or `LogstoreError` for all of them. Each has `code` (stable), `status`
(the gRPC status that other languages see), `remedy` (what to do), `retriable` (the same call may
succeed later), `refresh_route` (the shard is elsewhere now), `retry_after_ms` (not before that).

The call itself is wrong, and nothing was done:
    InvalidArgumentError, LimitExceededError, OutOfRangeError, CorruptBatchError, ClientUseError,
    ClientClosedError, NotServedHereError
What was named is not there, or is there already:
    UnknownLogError, UnknownShardError, UnknownInstanceError, UnknownMigrationError,
    AlreadyExistsError
The shard is elsewhere now (the client follows by itself):
    FencedError, WrongShardError, ShardSealedError, NotServingError
The cluster is busy or cannot be reached; the outcome may be unknown:
    OverloadedError, UnavailableError, InstanceDownError, OutcomeUnknownError, OutOfSequenceError,
    AppendManyError
Another process was first:
    VersionConflictError, VersionAheadError, ConflictError, LeaseLostError
The disk or the data:
    StorageError, StorageFullError, CorruptStorageError, DivergedError, UnreadableBatchError
An order to the cluster cannot be carried out:
    RefusedError, IllegalTransitionError
A process does not start:
    ConfigError, AddressInUseError, DirectoryInUseError, WrongClusterError, AlreadyRunningError
"""

from logstore.base.errors import (
    AddressInUseError,
    AlreadyExistsError,
    AlreadyRunningError,
    AppendManyError,
    ClientClosedError,
    ClientUseError,
    ConfigError,
    ConflictError,
    CorruptBatchError,
    CorruptStorageError,
    DirectoryInUseError,
    DivergedError,
    FencedError,
    IllegalTransitionError,
    InstanceDownError,
    InvalidArgumentError,
    LeaseLostError,
    LimitExceededError,
    LogstoreError,
    NotServedHereError,
    NotServingError,
    OutcomeUnknownError,
    OutOfRangeError,
    OutOfSequenceError,
    OverloadedError,
    RefusedError,
    ShardSealedError,
    StorageError,
    StorageFullError,
    UnavailableError,
    UnknownInstanceError,
    UnknownLogError,
    UnknownMigrationError,
    UnknownShardError,
    UnreadableBatchError,
    VersionAheadError,
    VersionConflictError,
    WrongClusterError,
    WrongShardError,
)

__all__ = [
    "AddressInUseError",
    "AlreadyExistsError",
    "AlreadyRunningError",
    "AppendManyError",
    "ClientClosedError",
    "ClientUseError",
    "ConfigError",
    "ConflictError",
    "CorruptBatchError",
    "CorruptStorageError",
    "DirectoryInUseError",
    "DivergedError",
    "FencedError",
    "IllegalTransitionError",
    "InstanceDownError",
    "InvalidArgumentError",
    "LeaseLostError",
    "LimitExceededError",
    "LogstoreError",
    "NotServedHereError",
    "NotServingError",
    "OutOfRangeError",
    "OutOfSequenceError",
    "OutcomeUnknownError",
    "OverloadedError",
    "RefusedError",
    "ShardSealedError",
    "StorageError",
    "StorageFullError",
    "UnavailableError",
    "UnknownInstanceError",
    "UnknownLogError",
    "UnknownMigrationError",
    "UnknownShardError",
    "UnreadableBatchError",
    "VersionAheadError",
    "VersionConflictError",
    "WrongClusterError",
    "WrongShardError",
]
