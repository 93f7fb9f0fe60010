"""Names that people choose: client groups, events, profiles, tiers, zones.

They are kept in statistics, metadata and metrics, so they are short, printable and UTF-8.
"""

from logstore.base.address import shown
from logstore.base.errors import InvalidArgumentError, LimitExceededError
from logstore.base.limits import NAME_BYTES_MAX


def checked_name(
    field: str, value: object, bytes_max: int = NAME_BYTES_MAX, *, may_be_empty: bool = False
) -> str:
    """The name, or InvalidArgumentError with the field, the value and the limit."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{field} is {type(value).__name__}, expected str")
    if not value and not may_be_empty:
        raise InvalidArgumentError(f"{field} is empty")
    size = len(value.encode("utf-8", "surrogatepass"))
    if size > bytes_max:
        raise LimitExceededError.of(field, size, bytes_max, "bytes")
    if not value.isprintable():
        raise InvalidArgumentError(f"{field} is {shown(value)}, it must be of printable characters")
    return value
