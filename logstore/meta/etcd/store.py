"""The MetadataStore port over etcd's KV, Watch and Lease services."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
from aetcd import rpc

from logstore.base.errors import (
    ConfigError,
    ConflictError,
    InvalidArgumentError,
    LeaseLostError,
    LogstoreError,
    UnavailableError,
)
from logstore.base.tls import TlsOptions
from logstore.meta.etcd.calls import CALL_TIMEOUT_S, EtcdCalls, Metadata
from logstore.meta.etcd.target import EtcdTarget
from logstore.meta.etcd.watch import follow
from logstore.meta.leases import check_ttl
from logstore.meta.memory import check_txn
from logstore.meta.port import (
    Compare,
    Lease,
    Operation,
    Put,
    RangeResult,
    TxnResult,
    Versioned,
    WatchEvent,
)

RANGE_PAGE_KEYS = 256
"""Keys read at once; with values at their limit a page stays below the message limit."""
RANGE_TRIES_MAX = 3
WATCH_ROUNDS_MAX = 2
"""How often every endpoint may fail in a row before a watch gives up."""
WATCH_REOPEN_S = 0.1


class EtcdMetadataStore:
    """A client of one etcd cluster. Revisions are etcd's own, of all its keys.

    History is compacted by etcd (`--auto-compaction-retention`) or by `compact`. Errors beyond the
    port's: `ConfigError` when etcd refuses the user or password, `StorageFullError` when it is over
    its quota.
    """

    def __init__(
        self,
        target: EtcdTarget,
        tls: TlsOptions | None = None,
        *,
        call_timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._calls = EtcdCalls(target, tls, call_timeout_s)
        self._timeout_s = call_timeout_s
        self._namespace = target.namespace.encode()

    async def get(self, key: str) -> Versioned | None:
        answer = await self._range(rpc.RangeRequest(key=self._key(key)))
        return self._versioned(answer.kvs[0]) if answer.kvs else None

    async def range(self, prefix: str) -> RangeResult:
        for _ in range(RANGE_TRIES_MAX):
            try:
                return await self._pages(prefix)
            except ConflictError:
                continue  # compacted between two pages
        raise UnavailableError(f"range of {prefix!r}: compacted {RANGE_TRIES_MAX} times meanwhile")

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        check_txn(compares, operations)
        request = rpc.TxnRequest(
            compare=[
                rpc.Compare(
                    result=rpc.Compare.EQUAL,
                    target=rpc.Compare.MOD,
                    key=self._key(compare.key),
                    mod_revision=compare.revision,
                )
                for compare in compares
            ],
            success=[self._operation(operation) for operation in operations],
        )
        if not operations:
            # A transaction that only compares is answered from the member's own, maybe stale,
            # state unless it holds a linearizable read.
            read = rpc.RangeRequest(key=self._key("/"), count_only=True)
            request.success.append(rpc.RequestOp(request_range=read))
            request.failure.append(rpc.RequestOp(request_range=read))

        async def send(channel: grpc.aio.Channel, metadata: Metadata) -> Any:
            return await rpc.KVStub(channel).Txn(
                request, timeout=self._timeout_s, metadata=metadata
            )

        answer = await self._calls.call(send, resend=not operations)
        return TxnResult(answer.succeeded, answer.header.revision)

    async def watch(
        self, prefix: str, after_revision: int
    ) -> AsyncIterator[tuple[WatchEvent, ...]]:
        """See the port. Goes on at another endpoint by itself after the last revision received;

        UnavailableError when every endpoint failed twice in a row.
        """
        seen, failures = after_revision, 0
        while True:
            at = self._calls.at
            events = follow(self._calls, at, self._span(prefix), seen, len(self._namespace))
            try:
                async for changes in events:
                    failures = 0
                    if changes:
                        seen = changes[-1].revision
                        yield changes
            except (UnavailableError, ConfigError) as e:
                self._calls.turn(at)
                failures += 1
                allowed = 1 if isinstance(e, ConfigError) else len(self._calls.endpoints)
                if failures >= WATCH_ROUNDS_MAX * allowed:
                    raise
                await asyncio.sleep(WATCH_REOPEN_S)
            finally:
                await events.aclose()  # type: ignore[attr-defined]

    async def lease_grant(self, ttl_s: float) -> Lease:
        check_ttl(ttl_s)
        request = rpc.LeaseGrantRequest(TTL=math.ceil(ttl_s))

        async def send(channel: grpc.aio.Channel, metadata: Metadata) -> Any:
            return await rpc.LeaseStub(channel).LeaseGrant(
                request, timeout=self._timeout_s, metadata=metadata
            )

        answer = await self._calls.call(send, resend=True)  # one too many ends by itself
        if answer.error:
            raise LogstoreError(f"etcd grants no lease: {answer.error}")
        return Lease(answer.ID, float(answer.TTL))

    async def lease_keep_alive(self, lease: int) -> Lease:
        async def send(channel: grpc.aio.Channel, metadata: Metadata) -> Any:
            stream = rpc.LeaseStub(channel).LeaseKeepAlive(
                iter((rpc.LeaseKeepAliveRequest(ID=lease),)),
                timeout=self._timeout_s,
                metadata=metadata,
            )
            try:
                async for answer in stream:
                    return answer
            finally:
                stream.cancel()
            raise UnavailableError(f"etcd did not answer the keep-alive of lease {lease}")

        answer = await self._calls.call(send, resend=True)
        if answer.TTL <= 0:
            raise LeaseLostError(f"lease {lease} has ended")
        return Lease(lease, float(answer.TTL))

    async def lease_revoke(self, lease: int) -> None:
        request = rpc.LeaseRevokeRequest(ID=lease)

        async def send(channel: grpc.aio.Channel, metadata: Metadata) -> Any:
            return await rpc.LeaseStub(channel).LeaseRevoke(
                request, timeout=self._timeout_s, metadata=metadata
            )

        try:
            await self._calls.call(send, resend=True)
        except LeaseLostError:
            return

    async def compact(self, revision: int) -> None:
        """Drop the history up to `revision`: watches from below must range again."""
        request = rpc.CompactionRequest(revision=revision)

        async def send(channel: grpc.aio.Channel, metadata: Metadata) -> Any:
            return await rpc.KVStub(channel).Compact(
                request, timeout=self._timeout_s, metadata=metadata
            )

        try:
            await self._calls.call(send, resend=True)
        except ConflictError:
            return  # another client compacted further already

    async def close(self) -> None:
        await self._calls.close()

    # ---- reads ---------------------------------------------------------------------------------

    async def _range(self, request: Any) -> Any:
        async def send(channel: grpc.aio.Channel, metadata: Metadata) -> Any:
            return await rpc.KVStub(channel).Range(
                request, timeout=self._timeout_s, metadata=metadata
            )

        return await self._calls.call(send, resend=True)

    async def _pages(self, prefix: str) -> RangeResult:
        """The first page is read linearizably, the others at its revision."""
        key, end = self._span(prefix)
        found: list[Versioned] = []
        revision = 0
        while True:
            answer = await self._range(
                rpc.RangeRequest(key=key, range_end=end, limit=RANGE_PAGE_KEYS, revision=revision)
            )
            revision = revision or answer.header.revision
            found += [self._versioned(kv) for kv in answer.kvs]
            if not answer.more:
                return RangeResult(tuple(found), revision)
            key = answer.kvs[-1].key + b"\0"

    # ---- translation ---------------------------------------------------------------------------

    def _key(self, key: str) -> bytes:
        if not key.startswith("/"):  # else a namespace could reach into one with a longer name
            raise InvalidArgumentError(f"metadata key {key!r} does not start with '/'")
        return self._namespace + key.encode()

    def _span(self, prefix: str) -> tuple[bytes, bytes]:
        """The half-open range of all keys that start with `prefix`."""
        start = self._key(prefix or "/")
        kept = start.rstrip(b"\xff")
        end = kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"
        return start, end

    def _versioned(self, kv: Any) -> Versioned:
        return Versioned(kv.key[len(self._namespace) :].decode(), kv.value, kv.mod_revision)

    def _operation(self, operation: Operation) -> Any:
        key = self._key(operation.key)
        if isinstance(operation, Put):
            put = rpc.PutRequest(key=key, value=operation.value, lease=operation.lease)
            return rpc.RequestOp(request_put=put)
        return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
