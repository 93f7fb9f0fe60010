"""The Transport port: how a process reaches others; and the side of it that is gRPC.

The simulator's network is the other side. `tests/contract/proto/test_transport.py` runs on both.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

import grpc
import grpc.aio

from logstore.base.background import Background
from logstore.base.errors import UnavailableError
from logstore.base.tls import TlsOptions
from logstore.proto.channel import IDLE_S, OPTIONS, Options, open_channel


class Transport(Protocol):
    """Channels to other processes, one an address, shared by all who are given the transport."""

    def channel(self, address: str) -> grpc.aio.Channel:
        """The channel to `host:port`. It connects by itself, and again after a break.

        Ask for it at each call and do not keep it: one that is idle for long is closed.
        Errors: `InvalidArgumentError` for an address that is none, `UnavailableError` after
        `close`, `ClientUseError` in a child forked from a process that used gRPC.
        """
        ...

    async def close(self) -> None:
        """End the calls in progress and open no channel any more; again it does nothing."""
        ...


@dataclass(slots=True)
class _Held:
    channel: grpc.aio.Channel
    asked_s: float


class GrpcTransport:
    """The pool of channels of one process, or of one client; it belongs to one event loop."""

    def __init__(
        self, tls: TlsOptions | None = None, *, options: Options = OPTIONS, idle_s: float = IDLE_S
    ) -> None:
        """`tls`: of every channel; None: plain text.

        `idle_s`: a connection that carried no call for so long is closed, and the channel with it
        when it was not asked for either and another one is opened.
        """
        self._tls, self._options, self._idle_s = tls, options, idle_s
        self._held: dict[str, _Held] = {}
        """By address, in the order in which they were asked for last."""
        self._closing = Background("transport")
        self._closed = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """What channels are open to; that which was asked for last stands last."""
        return tuple(self._held)

    def channel(self, address: str) -> grpc.aio.Channel:
        now_s = asyncio.get_running_loop().time()
        held = self._held.pop(address, None)
        if held is None:
            if self._closed:
                raise UnavailableError(f"no way to {address}: the transport is closed")
            self._close_idle(now_s)
            opened = open_channel(address, self._tls, options=self._options, idle_s=self._idle_s)
            held = _Held(opened, now_s)
        held.asked_s = now_s
        self._held[address] = held
        return held.channel

    def _close_idle(self, now_s: float) -> None:
        """Close the channels to addresses that were left behind."""
        for address, held in list(self._held.items()):
            if now_s - held.asked_s < self._idle_s:
                return  # the others were asked for later
            if held.channel.get_state() is grpc.ChannelConnectivity.IDLE:
                del self._held[address]
                self._closing.start(held.channel.close())

    async def close(self) -> None:
        self._closed = True
        held, self._held = list(self._held.values()), {}
        for one in held:
            await one.channel.close()
        await self._closing.stop()
