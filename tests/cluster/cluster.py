"""Three etcd members, two coordinators, three instances, each in its own namespace."""

import asyncio
import shutil
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import grpc.aio
from aetcd import rpc

from logstore.base.errors import LogstoreError
from logstore.meta.etcd import EtcdMetadataStore, EtcdTarget
from logstore.meta.records import (
    SHARDS,
    LeaderRecord,
    ShardRecord,
    decode_instance,
    decode_leader,
    decode_shard,
)
from logstore.proto.channel import open_channel
from logstore.proto.status import called
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from tests.cluster.network import Network, sh
from tests.cluster.party import Party

ETCD = ("e1", "e2", "e3")
COORDINATORS = ("c1", "c2")
INSTANCES = ("i1", "i2", "i3")
HOSTS = {"e1": 11, "e2": 12, "e3": 13, "c1": 21, "c2": 22, "i1": 31, "i2": 32, "i3": 33}
COORDINATOR_PORT, INSTANCE_PORT, CLIENT_PORT, PEER_PORT = 7400, 7500, 2379, 2380
CELLS = "/cells/"
INSTANCES_PREFIX = "/instances/"
SMALL_DISK_BYTES = 512 * 1024 * 1024
POLL_S = 0.1
CONVERGE_S = 60.0
_T = TypeVar("_T")


class NotConverged(AssertionError):
    """The cluster was not whole again in time; says what was missing."""


class Cluster:
    """Use as: `await start()`, faults and `converge()`, `await stop()`."""

    def __init__(self, folder: Path, node_settings: Mapping[str, object] | None = None) -> None:
        self.folder = folder
        shutil.rmtree(folder / "logs.before", ignore_errors=True)
        if (folder / "logs").exists():
            (folder / "logs").rename(folder / "logs.before")
        for name in ("data", "logs"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir(parents=True)
        self.network = Network()
        for party, host in HOSTS.items():
            self.network.add(party, host)
        self._disk("etcd", 2 * SMALL_DISK_BYTES)
        for name in INSTANCES:
            self._disk(name, SMALL_DISK_BYTES)
        self.parties: dict[str, Party] = {}
        self._build_etcd()
        self._build_ours(node_settings or {})
        endpoints = tuple(f"{self.at(e)}:{CLIENT_PORT}" for e in ETCD)
        self.store = EtcdMetadataStore(EtcdTarget(endpoints))
        self.channels = {i: open_channel(self.address(i)) for i in INSTANCES}

    # ---- who and where -------------------------------------------------------------------------

    def at(self, party: str) -> str:
        return self.network.addresses[party]

    def address(self, party: str) -> str:
        port = COORDINATOR_PORT if party in COORDINATORS else INSTANCE_PORT
        return f"{self.at(party)}:{port}"

    @property
    def addresses(self) -> str:
        """For clients: coordinators and instances."""
        return ",".join(self.address(p) for p in (*COORDINATORS, *INSTANCES))

    @property
    def unexpected(self) -> list[str]:
        """Processes that ended without an order."""
        return [text for party in self.parties.values() for text in party.unexpected]

    def check_alive(self) -> None:
        """Raise at once when a process ended that should run."""
        if self.unexpected:
            raise RuntimeError("; ".join(self.unexpected))

    async def shards(self, log: str) -> dict[str, ShardRecord]:
        found = await self.store.range(f"{SHARDS}{log}/")
        records = [decode_shard(item.value) for item in found.items]
        return {record.shard: record for record in records}

    async def led_by(self, log: str) -> dict[str, list[str]]:
        """Instance -> the shards of the log that it leads."""
        led: dict[str, list[str]] = {name: [] for name in INSTANCES}
        for record in (await self.shards(log)).values():
            led[record.primary.instance].append(record.shard)
        return led

    async def most_loaded(self, log: str) -> tuple[str, list[str]]:
        """The instance that leads most shards of the log, and which."""
        led = await self.led_by(log)
        name = max(led, key=lambda i: (len(led[i]), i))
        return name, led[name]

    async def leaders(self) -> dict[str, LeaderRecord]:
        """Election key -> who leads by it."""
        found = await self.store.range(CELLS)
        return {i.key: decode_leader(i.value) for i in found.items if i.key.endswith("/leader")}

    async def leading_coordinator(self) -> str:
        """One that leads; waits for it."""

        async def look() -> str:
            for record in (await self.leaders()).values():
                for name in COORDINATORS:
                    if record.address == self.address(name):
                        return name
            raise NotConverged("no coordinator leads")

        return await eventually(look)

    async def leading_member(self) -> str:
        """The etcd member that leads, as it says itself."""

        async def look() -> str:
            for name in ETCD:
                async with grpc.aio.insecure_channel(f"{self.at(name)}:{CLIENT_PORT}") as channel:
                    try:
                        status = await rpc.MaintenanceStub(channel).Status(
                            rpc.StatusRequest(), timeout=2
                        )
                    except grpc.aio.AioRpcError:
                        continue
                if status.leader == status.header.member_id:
                    return name
            raise NotConverged("no etcd member leads")

        return await eventually(look)

    # ---- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        await self.start_all()
        await self.whole()

    async def start_all(self) -> None:
        """Start whatever does not run; etcd first."""
        for name in (*ETCD, *COORDINATORS, *INSTANCES):
            await self.parties[name].start()

    async def stop(self) -> None:
        for channel in self.channels.values():
            await channel.close()
        await self.store.close()
        for party in reversed(list(self.parties.values())):
            await party.kill()

    async def heal(self) -> None:
        """End every fault: rules, frozen processes, dead ones, full disks."""
        await self.network.heal()
        for name in INSTANCES:
            self.ballast(name).unlink(missing_ok=True)
        for party in self.parties.values():
            party.thaw()
        await self.start_all()

    def ballast(self, instance: str) -> Path:
        return self.folder / "data" / instance / "ballast"

    def disks(self) -> str:
        """The largest files on each instance's disk, for the story of a failure."""
        lines = []
        for name in INSTANCES:
            files = [f for f in (self.folder / "data" / name).rglob("*") if f.is_file()]
            sizes = sorted(((f.stat().st_blocks * 512, f.name) for f in files), reverse=True)
            lines.append(
                f"{name}: {len(files)} files, {sum(s for s, _ in sizes)} bytes: {sizes[:5]}"
            )
        return "\n".join(lines)

    def fill_disk(self, instance: str) -> None:
        """Take all the space that is left on an instance's disk, to the last block."""
        free = shutil.disk_usage(self.folder / "data" / instance).free
        block = bytes(64 * 1024)
        with self.ballast(instance).open("wb", buffering=0) as file, suppress(OSError):
            for _ in range(2 * (free // len(block) + 1)):  # to the error; short writes are counted
                file.write(block)

    # ---- waiting ---------------------------------------------------------------------------

    async def whole(self) -> None:
        """Until etcd has a leader, a coordinator leads, and every instance is registered."""

        async def look() -> None:
            self.check_alive()
            for name in ETCD:
                url = f"http://{self.at(name)}:{CLIENT_PORT}/health"
                try:
                    await asyncio.to_thread(_fetch, url)
                except OSError as e:
                    raise NotConverged(f"{name} is not healthy: {e}") from None
            if not await self.leaders():
                raise NotConverged("no coordinator leads")
            found = (await self.store.range(INSTANCES_PREFIX)).items
            registered = {decode_instance(item.value).instance for item in found}
            missing = set(INSTANCES) - registered
            missing |= {n for n in INSTANCES if not self.parties[n].ready.is_set()}
            if missing:
                raise NotConverged(f"not serving: {', '.join(sorted(missing))}")

        await eventually(look)

    async def converge(self, log: str, limit_s: float = CONVERGE_S) -> float:
        """Until each shard has all its copies in sync and open; returns the seconds it took."""
        began_s = time.monotonic()

        async def look() -> None:
            self.check_alive()
            shards = await self.shards(log)
            for record in shards.values():
                if len(record.in_sync) != len(INSTANCES) or record.learners:
                    raise NotConverged(f"{record.shard}: in sync {_names(record.in_sync)}, "
                                       f"learners {_names(record.learners)}")  # fmt: skip
                if record.hand_over is not None or record.remove:
                    raise NotConverged(f"{record.shard} has intents left")
            for name in INSTANCES:
                for status in await self.status(name, log):
                    record = shards[status.shard]
                    role = "primary" if record.primary.instance == name else "follower"
                    ok = status.role == role and status.epoch == record.epoch
                    if not ok or not status.serving or status.error:
                        raise NotConverged(
                            f"{status.shard} on {name} is {status.role} in epoch {status.epoch} "
                            f"(wanted {role}, {record.epoch}), serving {status.serving} "
                            f"{status.error}"
                        )

        await eventually(look, limit_s)
        return time.monotonic() - began_s

    async def status(self, instance: str, log: str) -> list[node_pb2.ReplicaStatus]:
        async with called():
            answer = await NodeAdminStub(self.channels[instance]).Status(
                node_pb2.StatusRequest(), timeout=5.0
            )
        return [s for s in answer.replicas if s.shard.rpartition("/")[0] == log]

    # ---- making it -----------------------------------------------------------------------------

    def _disk(self, name: str, size: int) -> None:
        """A disk of its own, in memory, that goes with the mount namespace."""
        folder = self.folder / "data" / name
        folder.mkdir()
        sh("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder))

    def _build_etcd(self) -> None:
        peers = ",".join(f"{e}=http://{self.at(e)}:{PEER_PORT}" for e in ETCD)
        for name in ETCD:
            client, peer = (f"http://{self.at(name)}:{p}" for p in (CLIENT_PORT, PEER_PORT))
            command = [
                "etcd", "--name", name, "--data-dir", str(self.folder / "data" / "etcd" / name),
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", peers, "--initial-cluster-state", "new",
                "--initial-cluster-token", "logstore-cluster",
            ]  # fmt: skip
            self.parties[name] = Party(self.network, name, command, self._log(name),
                                       environment={"ETCD_UNSUPPORTED_ARCH": "arm64"})  # fmt: skip

    def _build_ours(self, node_settings: Mapping[str, object]) -> None:
        metadata = "etcd://" + ",".join(f"{self.at(e)}:{CLIENT_PORT}" for e in ETCD)
        coordinators = [self.address(c) for c in COORDINATORS]
        for name in COORDINATORS:
            command = [
                sys.executable, "-m", "coordinator.main", "--data",
                str(self.folder / "data" / name), "--metadata", metadata,
                "--host", self.at(name), "--port", str(COORDINATOR_PORT), "--autopilot", "off",
            ]  # fmt: skip
            self.parties[name] = Party(
                self.network, name, command, self._log(name), supervised=True
            )
        more = [p for k, v in node_settings.items() for p in (f"--{k.replace('_', '-')}", str(v))]
        for name in INSTANCES:
            command = [
                sys.executable, "-m", "logstore.node.main", "--instance", name, "--data",
                str(self.folder / "data" / name), "--listen", self.address(name),
                "--zone", f"zone-{name}", "--metadata", metadata,
                "--coordinators", *coordinators, *more,
            ]  # fmt: skip
            self.parties[name] = Party(self.network, name, command, self._log(name))

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"


async def eventually(look: Callable[[], Awaitable[_T]], limit_s: float = CONVERGE_S) -> _T:
    """The first answer of `look` that is no NotConverged and no LogstoreError, within the limit."""
    deadline_s = time.monotonic() + limit_s
    while True:
        try:
            return await look()
        except (NotConverged, LogstoreError) as e:
            if time.monotonic() > deadline_s:
                raise NotConverged(f"after {limit_s:g} s: {e}") from None
        await asyncio.sleep(POLL_S)


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=2) as reply:
        found: bytes = reply.read()
        return found


def _names(members: Iterable[object]) -> list[str]:
    return [str(getattr(m, "instance", m)) for m in members]
