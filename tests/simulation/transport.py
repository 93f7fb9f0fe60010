"""The simulated network's side of the Transport port."""

from logstore.base.errors import UnavailableError
from tests.simulation.network import Channel, Network


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
