"""Checks of one record or option from a caller, before anything is sent: the server's
limits, clear errors. Columns of records are in `columns`.
"""

from collections.abc import Mapping

from logstore.base.errors import InvalidArgumentError, LimitExceededError
from logstore.base.limits import KEY_BYTES_MAX, LOG_NAME_CHARS_MAX, RECORD_BYTES_MAX
from logstore.engine.weight import check_header_count, check_header_name, content_bytes


def log_name(name: object) -> str:
    """A log's name, or an error that names it."""
    if not isinstance(name, str):
        raise InvalidArgumentError(f"log is {type(name).__name__}, expected str")
    if not 1 <= len(name) <= LOG_NAME_CHARS_MAX:
        raise LimitExceededError.of("log name", len(name), LOG_NAME_CHARS_MAX, "characters")
    return name


def key(value: object, field: str = "key") -> bytes:
    """One key: bytes, at most KEY_BYTES_MAX."""
    if type(value) is not bytes:
        raise InvalidArgumentError(f"{field} is {type(value).__name__}, expected bytes")
    if len(value) > KEY_BYTES_MAX:
        raise LimitExceededError.of(field, len(value), KEY_BYTES_MAX, "bytes")
    return value


def record(
    record_key: object,
    value: object,
    headers: Mapping[str, bytes] | None,
    timestamp: int | None,
) -> int:
    """Check one record; returns its bytes as sent, headers included, as they count against the
    limits."""
    found = key(record_key)
    if type(value) is not bytes:
        raise InvalidArgumentError(f"value is {type(value).__name__}, expected bytes")
    if headers:
        _check_headers(headers)
    size = content_bytes(found, value, headers.items() if headers else ())
    if size > RECORD_BYTES_MAX:
        raise LimitExceededError.of("record", size, RECORD_BYTES_MAX, "bytes")
    if timestamp is not None and (type(timestamp) is not int or not -(2**63) <= timestamp < 2**63):
        raise InvalidArgumentError(f"timestamp is {timestamp!r}, expected microseconds as int64")
    return size


def header_copy(headers: Mapping[str, bytes] | None) -> dict[str, bytes] | None:
    """The headers at this moment: the caller's own mapping may change before they are sent."""
    if headers is None:
        return None
    if not isinstance(headers, Mapping):
        raise InvalidArgumentError(f"headers is {type(headers).__name__}, expected a mapping")
    return dict(headers) or None


def _check_headers(headers: Mapping[str, bytes]) -> None:
    check_header_count(len(headers))
    for name, content in headers.items():
        if type(name) is not str:
            raise InvalidArgumentError(f"header name is {type(name).__name__}, expected str")
        if type(content) is not bytes:
            raise InvalidArgumentError(
                f"header {name!r} is {type(content).__name__}, expected bytes"
            )
        try:
            check_header_name(len(name.encode()))
        except UnicodeEncodeError as e:
            raise InvalidArgumentError(f"header name {name!r} cannot be UTF-8: {e.reason}") from e


def number(field: str, value: object, low: int = 0) -> int:
    """A whole number of at least `low` and below 2**63."""
    if type(value) is not int or not low <= value < 2**63:
        raise InvalidArgumentError(f"{field} is {value!r}, expected an int of at least {low}")
    return value
