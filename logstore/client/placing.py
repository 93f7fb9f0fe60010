"""Virtual shard keys of balanced logs: requested from the coordinator once a key, then kept.

A key's virtual shard key never changes, so a kept one is never wrong. While no coordinator
answers, keys that have one are found in the mapping log itself; new ones cannot be placed then.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice

from logstore.base.backoff import Backoff
from logstore.base.errors import (
    InvalidArgumentError,
    LimitExceededError,
    LogstoreError,
    UnavailableError,
)
from logstore.base.limits import KEY_BYTES_MAX, RECORD_BYTES_MAX
from logstore.base.names import checked_name
from logstore.base.types import Placed
from logstore.client import checks
from logstore.client.bounds import number, shown, whole
from logstore.client.directory import Directory
from logstore.client.options import PLACE, PlaceOptions, refuse_unknown
from logstore.proto.coordinator_v1 import placement_pb2
from logstore.proto.coordinator_v1.placement_pb2_grpc import PlacementStub
from sharder.keys import TOKEN_BYTES

KEYS_KEPT_MAX = 1_000_000
"""Keys of all balanced logs whose tokens a client keeps; the oldest are dropped first."""
KEYS_PER_CALL = 10_000
LOOKED_UP_MAX = 64
"""Keys of one call that are looked up one by one in the mapping log without a coordinator."""
WAIT_FIRST_S = 0.05
WAIT_MAX_S = 1.0

Lookup = Callable[[str, bytes], Awaitable[bytes | None]]
"""(log, key) -> the token in the mapping log; None: it has none."""


def place_request(log: str, key: bytes, options: PlaceOptions) -> placement_pb2.GetPartitionRequest:
    """The request of `Log.place`; InvalidArgumentError names an option, its value and bounds."""
    refuse_unknown("place", options, PLACE)
    size, randomness = options.get("size"), options.get("randomness")
    weights = options.get("weights")
    if not isinstance(weights, Mapping | None):
        raise InvalidArgumentError(f"weights is {shown(weights)}, expected instance -> number")
    return placement_pb2.GetPartitionRequest(
        log=log,
        key=checks.key(key),
        size=0 if size is None else whole("size", size, 1, RECORD_BYTES_MAX),
        schema=checked_name("schema", options.get("schema", ""), may_be_empty=True),
        randomness=None if randomness is None else number("randomness", randomness, 0, 1),
        weights={
            checked_name("weights", instance): number(f"weights.{instance}", factor, 0, 1e6)
            for instance, factor in (weights or {}).items()
        },
    )


class Placer:
    """Tokens by log and key, of one client."""

    def __init__(self, directory: Directory, timeout_s: float = 60.0) -> None:
        self.lookup: Lookup | None = None
        """Set by the reader."""
        self._directory = directory
        self._timeout_s = timeout_s
        self._tokens: dict[tuple[str, bytes], bytes] = {}

    async def place(self, log: str, key: bytes, size: int) -> bytes:
        """The virtual shard key, drawn now if the key has none. `size`: bytes of a record."""
        token = self._tokens.get((log, key))
        if token is None:
            return (await self.place_many(log, [key], [size]))[0]
        _check_sizes([size])
        return token + key

    async def place_many(
        self, log: str, keys: Sequence[bytes], sizes: Sequence[int]
    ) -> list[bytes]:
        """The virtual shard keys of all `keys`, which may repeat; a new key counts with its first
        size. Errors: LimitExceededError for a key or record that is too long with its token."""
        _check_sizes(sizes)
        kept = self._tokens
        missing: dict[bytes, int] = {}
        found: dict[bytes, bytes] = {}
        for key, size in zip(keys, sizes, strict=True):
            token = kept.get((log, key))
            if token is not None:
                found[key] = token
            elif key not in missing:
                missing[key] = size
        names = list(missing)
        longest = max(map(len, names), default=0)
        if longest > KEY_BYTES_MAX - TOKEN_BYTES:
            raise LimitExceededError.of("key", longest, KEY_BYTES_MAX - TOKEN_BYTES, "bytes")
        for at in range(0, len(names), KEYS_PER_CALL):
            part = names[at : at + KEYS_PER_CALL]
            told = await self._ask(log, part, [missing[k] for k in part])
            found.update((k, token) for k, token in zip(part, told, strict=True) if token)
        return [found[key] + key for key in keys]

    async def partition(self, request: placement_pb2.GetPartitionRequest) -> Placed:
        """The place of one key, drawn now if it has none. Errors: those of the coordinator;
        UnavailableError when none answered in time."""
        longest = KEY_BYTES_MAX - TOKEN_BYTES
        if len(request.key) > longest:
            raise LimitExceededError.of("key", len(request.key), longest, "bytes")
        loop = asyncio.get_running_loop()
        deadline, backoff = loop.time() + self._timeout_s, Backoff(WAIT_FIRST_S, WAIT_MAX_S)
        while True:
            try:
                found = await self._directory.coordinator(PlacementStub, "GetPartition", request)
                break
            except UnavailableError as e:
                wait_s = max(backoff.next_s(), e.retry_after_ms / 1000)
                if loop.time() + wait_s >= deadline:
                    raise
            await asyncio.sleep(wait_s)
        self._keep(request.log, [request.key], [found.virtual_key[:TOKEN_BYTES]])
        return Placed(found.shard, found.instance, found.virtual_key)

    async def find(self, log: str, key: bytes) -> bytes | None:
        """The virtual shard key of a key that may have none."""
        token = self._tokens.get((log, key))
        if token is None:
            token = (await self._ask(log, [key], None))[0]
        return None if token is None else token + key

    async def _ask(
        self, log: str, keys: list[bytes], sizes: list[int] | None
    ) -> list[bytes | None]:
        """Tokens; with `sizes` of all keys, without them None for those that have none."""
        loop = asyncio.get_running_loop()
        deadline, backoff = loop.time() + self._timeout_s, Backoff(WAIT_FIRST_S, WAIT_MAX_S)
        while True:
            told = await self._ask_once(log, keys, sizes)
            if not isinstance(told, LogstoreError):
                return self._keep(log, keys, told)
            wait_s = backoff.next_s()
            if loop.time() + wait_s >= deadline:
                raise UnavailableError(f"not stored: {len(keys)} keys of log {log!r} are not"
                                       f" placed: {told.message}")  # fmt: skip
            await asyncio.sleep(max(wait_s, told.retry_after_ms / 1000))

    async def _ask_once(
        self, log: str, keys: list[bytes], sizes: list[int] | None
    ) -> list[bytes | None] | LogstoreError:
        request = placement_pb2.GetPartitionsRequest(
            log=log, keys=keys, sizes=sizes or (), lookup_only=sizes is None
        )
        try:
            answer = await self._directory.coordinator(PlacementStub, "GetPartitions", request)
        except UnavailableError as e:
            if self.lookup is None or len(keys) > LOOKED_UP_MAX:
                return e
            try:
                told = [await self.lookup(log, key) for key in keys]
            except LogstoreError:
                return e
            return told if sizes is None or all(told) else e
        return [p.virtual_key[:TOKEN_BYTES] or None for p in answer.partitions]

    def _keep(self, log: str, keys: list[bytes], tokens: list[bytes | None]) -> list[bytes | None]:
        kept = self._tokens
        kept.update(((log, k), t) for k, t in zip(keys, tokens, strict=True) if t is not None)
        if len(kept) > KEYS_KEPT_MAX:
            for old in list(islice(kept, len(kept) - KEYS_KEPT_MAX * 9 // 10)):
                del kept[old]
        return tokens

    def forget(self, log: str) -> None:
        """The log is gone; one of its name has other keys."""
        self._tokens = {k: token for k, token in self._tokens.items() if k[0] != log}


def _check_sizes(sizes: Sequence[int]) -> None:
    """The token is stored with each record, and counts in its size."""
    largest = max(sizes, default=0)
    if largest > RECORD_BYTES_MAX - TOKEN_BYTES:
        raise LimitExceededError.of(
            "record of a balanced log", largest, RECORD_BYTES_MAX - TOKEN_BYTES, "bytes"
        )
