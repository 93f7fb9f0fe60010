"""Errors of ours <-> gRPC status, at the edge only."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog

from logstore.base.errors import (
    LimitExceededError,
    LogstoreError,
    NotServedHereError,
    OverloadedError,
    UnavailableError,
    from_code,
)
from logstore.proto.v1 import common_pb2

DETAIL_KEY = "logstore-error-bin"
INTERNAL = "internal error: the process failed at this call, its log tells where"

_STATUS: dict[str, grpc.StatusCode] = {
    "invalid_argument": grpc.StatusCode.INVALID_ARGUMENT,
    "limit_exceeded": grpc.StatusCode.INVALID_ARGUMENT,
    "corrupt_batch": grpc.StatusCode.INVALID_ARGUMENT,
    "unreadable_batch": grpc.StatusCode.DATA_LOSS,
    "out_of_range": grpc.StatusCode.OUT_OF_RANGE,
    "wrong_shard": grpc.StatusCode.FAILED_PRECONDITION,
    "unknown_log": grpc.StatusCode.NOT_FOUND,
    "unknown_shard": grpc.StatusCode.NOT_FOUND,
    "unknown_instance": grpc.StatusCode.NOT_FOUND,
    "unknown_migration": grpc.StatusCode.NOT_FOUND,
    "already_exists": grpc.StatusCode.ALREADY_EXISTS,
    "fenced": grpc.StatusCode.FAILED_PRECONDITION,
    "not_serving": grpc.StatusCode.UNAVAILABLE,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "instance_down": grpc.StatusCode.FAILED_PRECONDITION,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "out_of_sequence": grpc.StatusCode.ABORTED,
    "version_conflict": grpc.StatusCode.FAILED_PRECONDITION,
    "version_ahead": grpc.StatusCode.FAILED_PRECONDITION,
    "storage": grpc.StatusCode.INTERNAL,
    "storage_full": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "corrupt_storage": grpc.StatusCode.DATA_LOSS,
    "diverged": grpc.StatusCode.DATA_LOSS,
    "conflict": grpc.StatusCode.ABORTED,
    "lease_lost": grpc.StatusCode.FAILED_PRECONDITION,
    "refused": grpc.StatusCode.FAILED_PRECONDITION,
    "wrong_cluster": grpc.StatusCode.FAILED_PRECONDITION,
    "already_running": grpc.StatusCode.FAILED_PRECONDITION,
    "illegal_transition": grpc.StatusCode.FAILED_PRECONDITION,
    "not_served_here": grpc.StatusCode.UNIMPLEMENTED,
}

_TOO_LARGE = re.compile(r"message larger than max \((\d+) vs\. (\d+)\)")
"""What gRPC itself says of a message over its bound, at either end, with the code of a full queue:
the same call can never succeed."""

_log = structlog.get_logger(__name__)


def detail_of(error: LogstoreError) -> common_pb2.ErrorDetail:
    """The error as a message, for streams and trailers."""
    return common_pb2.ErrorDetail(
        code=error.code,
        message=error.message,
        retry_after_ms=error.retry_after_ms,
        retriable=error.retriable,
        refresh_route=error.refresh_route,
    )


def error_of(detail: common_pb2.ErrorDetail) -> LogstoreError:
    """The error that a message carries."""
    return from_code(detail.code, detail.message, detail.retry_after_ms)


def from_rpc(error: grpc.aio.AioRpcError) -> LogstoreError:
    """A failed call as one of our errors; a lost connection becomes UnavailableError, a message
    that gRPC refused for its size LimitExceededError, which no retry cures.
    """
    for key, value in error.trailing_metadata() or ():
        if key == DETAIL_KEY and isinstance(value, bytes):
            return error_of(common_pb2.ErrorDetail.FromString(value))
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        found = _TOO_LARGE.search(text)
        if found is not None:
            return LimitExceededError.of("message", int(found[1]), int(found[2]), "bytes")
        return OverloadedError(text, retry_after_ms=10)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotServedHereError(
            "the process that was asked does not serve this call: it is of another kind (an "
            "instance, a coordinator, or no logstore at all) or of another version"
        )
    if code in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    ):
        return UnavailableError(f"call failed ({code.name.lower()}): {text}")
    return LogstoreError(f"call failed ({code.name.lower()}): {text}")


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", error: LogstoreError) -> NoReturn:
    """End a server call with our error in status, details and trailer."""
    await context.abort(
        _STATUS.get(error.code, grpc.StatusCode.INTERNAL),
        error.message,
        ((DETAIL_KEY, detail_of(error).SerializeToString()),),
    )


@contextlib.asynccontextmanager
async def served(context: "grpc.aio.ServicerContext[Any, Any]") -> AsyncIterator[None]:
    """Wrap a servicer's body: our errors go out as status; others are logged, never a traceback."""
    try:
        yield
    except LogstoreError as e:
        await abort(context, e)
    except (grpc.aio.AbortError, GeneratorExit):
        raise
    except Exception:
        _log.exception("unexpected error in a call")
        await abort(context, LogstoreError(INTERNAL))


@contextlib.asynccontextmanager
async def called() -> AsyncIterator[None]:
    """Wrap a client's calls: gRPC errors come out as ours."""
    try:
        yield
    except grpc.aio.AioRpcError as e:
        raise from_rpc(e) from None
    except asyncio.InvalidStateError as e:  # a stream that ended between two of our writes
        raise UnavailableError(f"call failed: {e}") from None
