"""The simulated network's side of the Transport port."""

import asyncio
from typing import Any, NoReturn

import grpc.aio

from logstore.base.errors import UnavailableError
from tests.simulation.loop import PROCESS
from tests.simulation.network import Call, Network

CONNECT_S = 0.05
"""A connection that does not come about is tried again after so long."""


class Channel(grpc.aio.Channel):
    """Makes calls to one address, as a stub wants them."""

    def __init__(self, network: Network, address: str) -> None:
        self._network = network
        self._address = address
        self._closed = False

    async def __aenter__(self) -> "Channel":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> NoReturn:
        raise NotImplementedError("a simulated channel has no connection")

    async def wait_for_state_change(self, last_observed_state: object) -> NoReturn:
        raise NotImplementedError("a simulated channel has no connection")

    def _multi(self, path: str, kind: str) -> Any:
        def start(
            request: Any = None,
            *,
            timeout: float | None = None,
            metadata: tuple[tuple[str, str], ...] = (),
            **_: Any,
        ) -> Call:
            if self._closed:
                raise UnavailableError("the channel is closed")
            call = Call(self._network, self._address, path, kind, timeout, metadata)
            call.channel = self
            if kind[0] == "u":
                call.send(request)
                call.end_sending()
            return call

        return start

    def unary_unary(self, *args: Any, **named: Any) -> Any:
        return self._multi(args[0], "uu")

    def unary_stream(self, *args: Any, **named: Any) -> Any:
        return self._multi(args[0], "us")

    def stream_stream(self, *args: Any, **named: Any) -> Any:
        return self._multi(args[0], "ss")

    def stream_unary(self, *args: Any, **named: Any) -> Any:
        return self._multi(args[0], "su")

    async def channel_ready(self) -> None:
        """Return once the server was reached and its answer came."""
        network, client = self._network, PROCESS.get()
        assert client is not None
        while True:
            found = self._network.servers.get(self._address)
            name = found.process.name if found is not None else self._address
            await asyncio.sleep(network.delay_s(client.name, name))
            up = found is not None and found.process.alive
            if up and network.reaches(client.name, name) and network.reaches(name, client.name):
                await asyncio.sleep(network.delay_s(name, client.name))
                return
            await asyncio.sleep(CONNECT_S)

    async def close(self, grace: float | None = None) -> None:
        """Its calls in progress end."""
        self._closed = True
        for call in [c for c in self._network.calls.values() if c.channel is self]:
            call.cancel()


class SimTransport:
    """The channels of one process, or of one client."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._channels: dict[str, Channel] = {}
        self._closed = False

    def channel(self, address: str) -> Channel:
        found = self._channels.get(address)
        if found is None:
            if self._closed:
                raise UnavailableError(f"no way to {address}: the transport is closed")
            found = self._channels[address] = Channel(self._network, address)
        return found

    async def close(self) -> None:
        self._closed = True
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()
