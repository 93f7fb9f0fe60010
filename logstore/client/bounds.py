"""Numbers that callers pass in: within their range, or refused with field, value and range."""

import contextlib
import datetime
import math
import numbers
import operator

from logstore.base.errors import InvalidArgumentError

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
SECONDS_MAX = 366 * 86_400
"""The longest time that a caller may ask to wait."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def whole(field: str, value: object, low: int = 0, high: int = INT64_MAX) -> int:
    """A whole number within [low, high]: int or anything that is one (numpy's), never a bool."""
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = None
    if found is None or isinstance(value, bool) or not low <= found <= high:
        raise InvalidArgumentError(
            f"{field} is {shown(value)}, expected an int from {low} to {high}"
        )
    return found


def time_us(field: str, value: object) -> int:
    """Microseconds since 1970 UTC as int64; a datetime must know its zone."""
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise InvalidArgumentError(f"{field} is {value}, a datetime must have a time zone")
        return (value - _EPOCH) // datetime.timedelta(microseconds=1)
    try:
        return whole(field, value, INT64_MIN)
    except InvalidArgumentError as e:
        raise InvalidArgumentError(f"{e.message} (µs since 1970 UTC) or a datetime") from None


def seconds(field: str, value: object, *, zero: bool = False) -> float:
    """A finite time above 0 s (or 0 with `zero`), at most SECONDS_MAX."""
    found = math.nan
    if type(value) is not bool and isinstance(value, numbers.Real):
        with contextlib.suppress(OverflowError):
            found = float(value)
    if not (found > 0 or (zero and found == 0)) or found > SECONDS_MAX:
        low = "0" if zero else "more than 0"
        raise InvalidArgumentError(f"{field} is {shown(value)}, expected {low} to {SECONDS_MAX} s")
    return found


def number(field: str, value: object, low: float, high: float) -> float:
    """A finite number within [low, high]; never a bool."""
    found = math.nan
    if type(value) is not bool and isinstance(value, numbers.Real):
        with contextlib.suppress(OverflowError):
            found = float(value)
    if not low <= found <= high:
        raise InvalidArgumentError(f"{field} is {shown(value)}, expected {low:g} to {high:g}")
    return found


def name(field: str, value: object, bytes_max: int) -> str:
    """A text of 1 to `bytes_max` bytes in UTF-8."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{field} is {shown(value)}, expected str")
    size = len(value.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= bytes_max:
        raise InvalidArgumentError(
            f"{field} has {size} bytes, expected 1 to {bytes_max} (it is {shown(value)})"
        )
    return value


def shown(value: object) -> str:
    """A value for an error message: its type where that is wrong, and never long."""
    text = repr(value)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    plain = isinstance(value, (int, float, str)) and not isinstance(value, bool)
    return text if plain else f"{text} ({type(value).__name__})"
