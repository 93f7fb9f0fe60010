"""The caller's own name: checked once, where each request is taken in."""

from logstore.base.limits import NAME_BYTES_MAX
from logstore.base.names import checked_name
from logstore.proto.v1 import common_pb2


def client_group(caller: common_pb2.Caller) -> str:
    """The group of the connection, empty if it names none. It enters statistics, so its length
    is bounded: LimitExceededError."""
    group: str = caller.client_group
    if group.isascii() and group.isprintable() and len(group) <= NAME_BYTES_MAX:
        return group  # nearly always: a request is small, and this is on its path
    return checked_name("client_group", group, may_be_empty=True)
