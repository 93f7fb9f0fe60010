"""Errors of ours <-> gRPC status, at the edge only."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import grpc.aio
import msgspec
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
INTERNAL = "internal error: the process failed at this call, its log shows where"

_TOO_LARGE = re.compile(r"message larger than max \((\d+) vs\. (\d+)\)")
"""gRPC's own text for a message over its bound, at either end, with the code of a full queue:
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
        fields_json=_fields_json(error),
    )


def error_of(detail: common_pb2.ErrorDetail) -> LogstoreError:
    """The error that a message carries."""
    error = from_code(detail.code, detail.message, detail.retry_after_ms)
    if detail.fields_json:
        with contextlib.suppress(msgspec.MsgspecError):  # of another version: it has defaults
            _set_fields(error, msgspec.json.decode(detail.fields_json, type=dict[str, Any]))
    return error


def _fields_json(error: LogstoreError) -> bytes:
    found = {name: value for name in error.fields if (value := getattr(error, name)) is not None}
    return msgspec.json.encode(found, enc_hook=_as_data) if found else b""


def _as_data(error: object) -> dict[str, Any]:
    """An error inside an error."""
    if not isinstance(error, LogstoreError):
        raise NotImplementedError(f"{type(error).__name__} does not cross a wire")
    data: dict[str, Any] = {name: getattr(error, name) for name in error.fields}
    return {
        "code": error.code,
        "message": error.message,
        "retry_after_ms": error.retry_after_ms,
        "fields": data,
    }


def _from_data(kind: type, data: Any) -> LogstoreError:
    if kind is not LogstoreError:
        raise NotImplementedError(f"{kind.__name__} does not cross a wire")
    inner = msgspec.convert(data, _Inner)
    error = from_code(inner.code, inner.message, inner.retry_after_ms)
    _set_fields(error, inner.fields)
    return error


def _set_fields(error: LogstoreError, data: dict[str, Any]) -> None:
    for name, kind in error.fields.items():
        if name in data:
            setattr(error, name, msgspec.convert(data[name], kind, dec_hook=_from_data))


class _Inner(msgspec.Struct):
    code: str
    message: str
    retry_after_ms: int
    fields: dict[str, Any]


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
        grpc.StatusCode[error.status.name],
        error.message,
        ((DETAIL_KEY, detail_of(error).SerializeToString()),),
    )


@contextlib.asynccontextmanager
async def served(context: "grpc.aio.ServicerContext[Any, Any]") -> AsyncIterator[None]:
    """Wrap a servicer's body: our errors become a status; others are logged without a traceback."""
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
    """Wrap a client's calls: gRPC errors become our errors."""
    try:
        yield
    except grpc.aio.AioRpcError as e:
        raise from_rpc(e) from None
    except asyncio.InvalidStateError as e:  # a stream that ended between two of our writes
        raise UnavailableError(f"call failed: {e}") from None
