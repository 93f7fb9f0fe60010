"""One network namespace a party, joined by a bridge; faults are iptables rules in them."""

import asyncio
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SUBNET = "198.18.77"
"""A part of RFC 2544's range for tests of network devices, used by no real network."""

HUB = "hub"
"""Where the run itself and its clients are; the bridge's own address."""


def sh(*command: str) -> None:
    """Run a short command; its error output is raised."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}".strip())


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sides of a partition. `one_way`: only what `there` sends to `here` is dropped."""

    here: tuple[str, ...]
    there: tuple[str, ...]
    one_way: bool = False


class Network:
    """The run must be inside its own network and mount namespaces (see `__main__`)."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {HUB: f"{SUBNET}.1"}
        folder = Path("/run/netns")
        folder.mkdir(parents=True, exist_ok=True)
        sh("mount", "-t", "tmpfs", "none", str(folder))
        sh("ip", "link", "set", "lo", "up")
        sh("ip", "link", "add", "br0", "type", "bridge")
        sh("ip", "address", "add", f"{self.addresses[HUB]}/24", "dev", "br0")
        sh("ip", "link", "set", "br0", "up")

    def add(self, party: str, host: int) -> str:
        """A namespace with one interface on the bridge; returns its address."""
        address = self.addresses[party] = f"{SUBNET}.{host}"
        sh("ip", "netns", "add", party)
        sh("ip", "link", "add", f"v-{party}", "type", "veth", "peer", "name", "eth0",
           "netns", party)  # fmt: skip
        sh("ip", "link", "set", f"v-{party}", "master", "br0", "up")
        sh("ip", "-n", party, "address", "add", f"{address}/24", "dev", "eth0")
        sh("ip", "-n", party, "link", "set", "eth0", "up")
        sh("ip", "-n", party, "link", "set", "lo", "up")
        return address

    def within(self, party: str, command: Iterable[str]) -> list[str]:
        """The command, run in a party's namespace by the same process."""
        return ["nsenter", f"--net=/run/netns/{party}", "--", *command]

    async def cut(self, pair: Pair) -> None:
        """Drop packets between two sides, or of one direction."""
        for here in pair.here:
            for there in pair.there:
                await self._rule(here, "-A", "INPUT", "-s", self.addresses[there], "-j", "DROP")
                if not pair.one_way:
                    await self._rule(there, "-A", "INPUT", "-s", self.addresses[here], "-j", "DROP")

    async def lose(self, parties: Iterable[str], share: float) -> None:
        """Lose this share of all packets that come in to each party."""
        for party in parties:
            await self._rule(party, "-A", "INPUT", "-m", "statistic", "--mode", "random",
                             "--probability", f"{share}", "-j", "DROP")  # fmt: skip

    async def heal(self) -> None:
        """Remove every rule."""
        for party in self.addresses:
            if party != HUB:
                await self._rule(party, "-F")

    async def _rule(self, party: str, *rule: str) -> None:
        await asyncio.to_thread(sh, *self.within(party, ["iptables", "-w", *rule]))
