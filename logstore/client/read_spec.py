"""The request of a read, and its position in one shard. Pure."""

from dataclasses import dataclass
from typing import Literal

from logstore.base.errors import InvalidArgumentError
from logstore.client import bounds, checks
from logstore.client.pages import Page
from logstore.proto.v1 import common_pb2, log_pb2
from sharder.keys import KeyRange
from sharder.shard_map import Shard

Order = Literal["key", "any"]

SHARD_NAME_BYTES_MAX = 1_024
"""A log's name and a number; a longer text names no shard."""


@dataclass(frozen=True, slots=True)
class ReadSpec:
    """What to read. `key` excludes `start`/`end`; `offset` needs `shard`.

    Without an offset a read starts at the beginning and a tail at the end.
    """

    log: str
    key: bytes | None = None
    start: bytes = b""
    end: bytes | None = None
    since_us: int | None = None
    shard: str | None = None
    offset: int | None = None
    from_base: bool = False
    """Whether a tail begins with stored records, too."""
    limit: int | None = None
    order: Order = "any"
    created_us: int = 0
    """Which log of that name (Router.created_us); 0: any."""
    written: KeyRange | None = None
    """Of a balanced log: the keys as they were written; `key` is then the virtual shard key."""

    @property
    def sifts(self) -> bool:
        """Whether more records come over the wire than are wanted."""
        return self.written is not None and self.written != KeyRange()


def spec_of(
    log: str,
    created_us: int,
    *,
    key: bytes | None = None,
    start: bytes | None = None,
    end: bytes | None = None,
    since: object = None,
    shard: str | None = None,
    offset: int | None = None,
    limit: int | None = None,
    order: Order = "any",
) -> ReadSpec:
    """A caller's request, checked: InvalidArgumentError names the field, the value and the
    range."""
    if order not in ("key", "any"):
        raise InvalidArgumentError(f'order is {bounds.shown(order)}, expected "key" or "any"')
    if key is not None and (start is not None or end is not None):
        raise InvalidArgumentError("key is given together with start or end")
    if offset is not None and shard is None:
        raise InvalidArgumentError("offset is given without shard: offsets belong to shards")
    if start is not None:
        checks.key(start, "start")
    if end is not None:
        checks.key(end, "end")
        if end <= (start or b""):
            raise InvalidArgumentError(f"end is {end!r}, it must be above start {start!r}")
    return ReadSpec(
        log=log,
        key=None if key is None else checks.key(key),
        start=start or b"",
        end=end,
        since_us=None if since is None else bounds.time_us("since", since),
        shard=None if shard is None else bounds.name("shard", shard, SHARD_NAME_BYTES_MAX),
        offset=None if offset is None else bounds.whole("offset", offset),
        limit=None if limit is None else bounds.whole("limit", limit, 1),
        order=order,
        created_us=created_us,
    )


class ReadPlace:
    """Where a shard's read is; makes the request that continues it."""

    def __init__(self, spec: ReadSpec, offset: int | None) -> None:
        """`offset=None`: from the first record that is kept."""
        self._spec = spec
        self._left = None if spec.sifts else spec.limit
        self.written = spec.written
        self._offset = offset
        self._resumed = False
        self.refused = False
        """A call was refused for want of capacity since the last page: the next is no new load."""
        self.stop: int | None = None
        self.log_start: int | None = None
        """Records below this offset, which the read did not exclude, were trimmed."""
        self.sealed = False
        """The read stops at the shard's seal: its successors go on."""

    @property
    def offset(self) -> int:
        """Where reading goes on; 0 before the first answer of a read from the beginning."""
        return self._offset or 0

    @property
    def resumed(self) -> bool:
        """Whether the shard was seen to reach the offset."""
        return self._resumed

    @property
    def by_key(self) -> bool:
        return self._spec.key is not None

    @property
    def finished(self) -> bool:
        return self._left is not None and self._left <= 0

    def advance(self, page: Page, high_watermark: int, tail: bool) -> None:
        self._offset = page.next_offset
        self._resumed, self.refused = True, False
        if self.stop is None and not tail:
            self.stop = high_watermark
        if self._left is not None:
            self._left -= page.count

    def request(self, shard: Shard, shown: int, caller: common_pb2.Caller) -> log_pb2.ReadRequest:
        spec = self._spec
        if self._resumed:
            # A replica that lags behind earlier reads must wait, not call the start out of range.
            shown = max(shown, self.offset, self.stop or 0)
        if shard.sealed_end is not None:
            # S4: a sealed shard ends there, not at some replica's high watermark.
            shown = max(shown, shard.sealed_end)
        keys = None
        if spec.key is None and (spec.start or spec.end is not None):
            keys = common_pb2.KeyRange(start=spec.start, end=spec.end)
        return log_pb2.ReadRequest(
            shard=shard.id,
            epoch=shard.epoch,
            start_offset=self._offset,
            stop_offset=self.stop,
            key=spec.key,
            range=keys,
            since_us=spec.since_us,
            limit=self._left or 0,
            min_high_watermark=shown,
            caller=caller,
            created_us=spec.created_us,
            retry=self.refused,
        )
