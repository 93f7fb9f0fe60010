"""Calls to the etcd endpoint that answers; etcd's errors as ours.

One endpoint is used until it fails, then the next. Every call carries `hasleader`: a member that is
cut off from its quorum refuses at once instead of letting us wait, and ends its watches.

A call that may happen twice is sent again at the next endpoint. One that may not is, too, while it
surely was not sent or was refused unread; otherwise the error says that its outcome is unknown.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from aetcd import rpc

from logstore.base.errors import (
    ConfigError,
    ConflictError,
    LeaseLostError,
    LimitExceededError,
    LogstoreError,
    OverloadedError,
    StorageFullError,
    UnavailableError,
)
from logstore.base.tls import TlsOptions
from logstore.meta.etcd.target import EtcdTarget
from logstore.proto.transport import GrpcTransport

CALL_TIMEOUT_S = 2.0
"""Timeout of one try: a change that is sent during an election is lost without an answer."""
CONNECT_TIMEOUT_S = 1.0
MESSAGE_BYTES_MAX = 512 << 20
OVERLOADED_RETRY_MS = 100

Metadata = tuple[tuple[str, str], ...]
Call = Callable[[grpc.aio.Channel, Metadata], Awaitable[Any]]

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # etcd's bounds: a ping each 5 s at most, and none without a call; else it hangs up on us.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_STALE_TOKEN = ("etcdserver: invalid auth token", "etcdserver: revision of auth store is old")
_REFUSED_UNREAD = ("etcdserver: no leader",)
_BY_DETAILS: tuple[tuple[str, type[LogstoreError]], ...] = (
    ("requested lease not found", LeaseLostError),
    ("required revision has been compacted", ConflictError),
    ("request is too large", LimitExceededError),
    ("too many operations in txn", LimitExceededError),
    ("database space exceeded", StorageFullError),
    ("authentication failed", ConfigError),
    ("user name is empty", ConfigError),
    ("authentication is not enabled", ConfigError),
    ("permission denied", ConfigError),
    ("invalid auth token", ConfigError),
)
_UNAVAILABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)


def from_etcd(error: grpc.aio.AioRpcError, endpoint: str) -> LogstoreError:
    """A failed call as one of our errors; names the endpoint."""
    code, details = error.code(), error.details() or ""
    message = f"etcd at {endpoint}: {details or code.name.lower()}"
    for part, cause in _BY_DETAILS:
        if part in details:
            return cause(message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return OverloadedError(message, retry_after_ms=OVERLOADED_RETRY_MS)
    return (UnavailableError if code in _UNAVAILABLE else LogstoreError)(message)


class EtcdCalls:
    """Channels to the endpoints of `target`, opened when first used; the session's token."""

    def __init__(self, target: EtcdTarget, tls: TlsOptions | None, call_timeout_s: float) -> None:
        if target.tls and tls is None:
            raise ConfigError("metadata is etcds://, which needs a CA file to verify the servers")
        self.endpoints = target.endpoints
        self.timeout_s = call_timeout_s
        self._target = target
        self._transport = GrpcTransport(tls if target.tls else None, options=_OPTIONS)
        self._token: str | None = None
        self._authenticating = asyncio.Lock()
        self._closed = False
        self.at = 0
        """The endpoint in use, as an index into `endpoints`."""

    async def call(self, call: Call, *, resend: bool) -> Any:
        """Make `call` at an endpoint that answers. `resend`: a second call does no harm."""
        return await self._authenticated(
            lambda: self._turning(call, resend=resend, token=self._token)
        )

    async def stream_at(self, at: int) -> tuple[grpc.aio.Channel, Metadata]:
        """A connected channel to endpoint `at` and the metadata of every call."""
        await self._authenticated(self._nothing)
        return await self._connected(at), self._metadata(self._token)

    def forget_token(self) -> None:
        self._token = None

    def turn(self, failed: int) -> None:
        """The next endpoint, unless another call turned already."""
        if self.at == failed:
            self.at = (failed + 1) % len(self.endpoints)

    async def close(self) -> None:
        self._closed = True
        await self._transport.close()

    # ---- one call ------------------------------------------------------------------------------

    async def _turning(self, call: Call, *, resend: bool, token: str | None) -> Any:
        failed: LogstoreError = UnavailableError("no etcd endpoint was asked")
        for _ in self.endpoints:
            at = self.at
            try:
                channel = await self._connected(at)
            except UnavailableError as e:
                failed = e
                self.turn(at)
                continue
            try:
                return await call(channel, self._metadata(token))
            except grpc.aio.AioRpcError as e:
                if (e.details() or "").startswith(_STALE_TOKEN) and token is not None:
                    raise _StaleTokenError(token) from None
                failed = from_etcd(e, self.endpoints[at])
                if not isinstance(failed, UnavailableError):
                    raise failed from None
                self.turn(at)
                if not resend and e.details() not in _REFUSED_UNREAD:
                    raise failed from None
            except asyncio.CancelledError:
                self.explain_cancel()
                raise
        raise failed

    async def _authenticated(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Log in first where a user is given; once more when the token is no longer taken.

        etcd checks the token before it proposes anything, so a refused call was not done.
        """
        for last in (False, True):
            if self._target.user is not None and self._token is None:
                await self._authenticate()
            try:
                return await work()
            except _StaleTokenError as e:
                if self._token == e.token:
                    self._token = None
                if last:
                    raise UnavailableError("etcd refuses each new login token") from None
        raise AssertionError  # the loop returns or raises

    async def _authenticate(self) -> None:
        async with self._authenticating:
            if self._token is not None:
                return
            request = rpc.AuthenticateRequest(
                name=self._target.user, password=self._target.password or ""
            )
            answer = await self._turning(
                lambda channel, metadata: rpc.AuthStub(channel).Authenticate(
                    request, timeout=self.timeout_s, metadata=metadata
                ),
                resend=True,
                token=None,
            )
            self._token = answer.token

    async def _nothing(self) -> None: ...

    # ---- channels ------------------------------------------------------------------------------

    async def _connected(self, at: int) -> grpc.aio.Channel:
        """Wait for a connection, so that a call to a dead endpoint surely was not sent."""
        channel, endpoint = self._channel(at), self.endpoints[at]
        ready, failed = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE
        state = channel.get_state(try_to_connect=True)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                while state is not ready:
                    if state in (failed, grpc.ChannelConnectivity.SHUTDOWN):
                        raise UnavailableError(f"etcd at {endpoint} cannot be reached")
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError:
            raise UnavailableError(
                f"etcd at {endpoint} does not take a connection in {CONNECT_TIMEOUT_S:g} s"
            ) from None
        except asyncio.CancelledError:
            self.explain_cancel()
            raise
        return channel

    def _channel(self, at: int) -> grpc.aio.Channel:
        if self._closed:
            raise UnavailableError("the etcd client is closed")
        return self._transport.channel(self.endpoints[at])

    def _metadata(self, token: str | None) -> Metadata:
        leader = ("hasleader", "true")
        return (leader,) if token is None else (leader, ("token", token))

    def explain_cancel(self) -> None:
        """`close` cancels calls in progress, not their callers: those get UnavailableError."""
        task = asyncio.current_task()
        if self._closed and (task is None or not task.cancelling()):
            raise UnavailableError("the etcd client is closed")


class _StaleTokenError(Exception):
    def __init__(self, token: str) -> None:
        super().__init__("stale token")
        self.token = token
