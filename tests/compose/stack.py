"""The compose cluster as the tests see it: parties, faults, and when it is whole again."""

import asyncio
import os
import time
import urllib.request
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import grpc.aio
from aetcd import rpc

from logstore.meta.etcd import EtcdMetadataStore, EtcdTarget
from logstore.meta.records import (
    SHARDS,
    LeaderRecord,
    Member,
    ShardRecord,
    decode_instance,
    decode_leader,
    decode_shard,
)
from logstore.proto.channel import open_channel
from logstore.proto.status import called
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from tests.cluster.cluster import CELLS, INSTANCES_PREFIX, NotConverged, eventually
from tests.compose.docker import CommandError, Compose

NET = os.environ.get("LOGSTORE_NET", "198.18.78")
HOSTS = {"prometheus": 9, "kafka": 10, "e1": 11, "e2": 12, "e3": 13, "c1": 21, "c2": 22,
         "i1": 31, "i2": 32, "i3": 33, "i4": 34, "i5": 35, "i6": 36}  # fmt: skip
ETCD = ("e1", "e2", "e3")
COORDINATORS = ("c1", "c2")
FIRST_INSTANCES = ("i1", "i2", "i3", "i4", "i5")
COPIES = 3
WHOLE_S = 90.0


def at(party: str) -> str:
    return f"{NET}.{HOSTS[party]}"


class Stack:
    """Use as: `await up()`, faults, `await converge(LOG)`, `await down()`."""

    def __init__(self, compose: Compose, folder: Path) -> None:
        self.compose, self.folder = compose, folder
        self.instances = list(FIRST_INSTANCES)
        self.store = EtcdMetadataStore(EtcdTarget(tuple(f"{at(e)}:2379" for e in ETCD)))
        self._channels: dict[str, grpc.aio.Channel] = {}

    # ---- who and where -------------------------------------------------------------------------

    @property
    def addresses(self) -> str:
        """What a user gives to clients and commands: the coordinators, and an instance or two."""
        parties = [f"{at(c)}:7400" for c in COORDINATORS]
        return ",".join([*parties, *(f"{at(i)}:7500" for i in self.instances)])

    def channel(self, instance: str) -> grpc.aio.Channel:
        if instance not in self._channels:
            self._channels[instance] = open_channel(f"{at(instance)}:7500")
        return self._channels[instance]

    async def shards(self, log: str) -> dict[str, ShardRecord]:
        found = await self.store.range(f"{SHARDS}{log}/")
        return {r.shard: r for r in (decode_shard(item.value) for item in found.items)}

    async def most_loaded(self, log: str) -> tuple[str, list[str]]:
        """The instance that leads most shards of the log, and which."""
        led: dict[str, list[str]] = {}
        for record in (await self.shards(log)).values():
            led.setdefault(record.primary.instance, []).append(record.shard)
        name = max(led, key=lambda i: (len(led[i]), i))
        return name, led[name]

    async def leaders(self) -> dict[str, LeaderRecord]:
        """Election key -> who leads by it."""
        found = (await self.store.range(CELLS)).items
        return {i.key: decode_leader(i.value) for i in found if i.key.endswith("/leader")}

    async def etcd_leader(self) -> str:
        async def look() -> str:
            for name in ETCD:
                async with grpc.aio.insecure_channel(f"{at(name)}:2379") as channel:
                    stub = rpc.MaintenanceStub(channel)
                    try:
                        status = await stub.Status(rpc.StatusRequest(), timeout=2)
                    except grpc.aio.AioRpcError:
                        continue
                if status.leader == status.header.member_id:
                    return name
            raise NotConverged("no etcd member leads")

        return await eventually(look)

    # ---- life ----------------------------------------------------------------------------------

    async def up(self) -> float:
        """Everything runs and serves; returns the seconds it took."""
        began_s = time.monotonic()
        await self.compose.run("up", "-d", "--no-build")
        await self.whole()
        return time.monotonic() - began_s

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        await self.store.close()

    async def kill(self, party: str) -> None:
        """kill -9 of the container's processes. Docker does not start it again by itself then."""
        await self.compose.docker("kill", "-s", "KILL", await self.compose.container(party))

    async def ended_s(self, party: str) -> float:
        """When its container ended, by our monotonic clock."""
        shown = (await self.compose.inspect(party))["State"]["FinishedAt"]
        ended = datetime.fromisoformat(shown[:26].rstrip("Z") + "+00:00")
        return time.monotonic() - (datetime.now(UTC) - ended).total_seconds()

    async def start(self, party: str) -> None:
        await self.compose.docker("start", await self.compose.container(party))

    async def stop(self, party: str) -> float:
        """SIGTERM; seconds until it was gone. Fails if it had to be killed."""
        began_s = time.monotonic()
        await self.compose.run("stop", party)
        took_s = time.monotonic() - began_s
        status = (await self.compose.inspect(party))["State"]["ExitCode"]
        if status not in (0, 143):  # 143: a JVM and etcd end so at SIGTERM
            raise CommandError(f"{party} ended with status {status} at SIGTERM")
        return took_s

    async def pause(self, party: str) -> None:
        await self.compose.docker("pause", await self.compose.container(party))

    async def unpause(self, party: str) -> None:
        await self.compose.docker("unpause", await self.compose.container(party))

    async def _network(self) -> str:
        label = f"label=com.docker.compose.project={self.compose.project}"
        return (await self.compose.docker("network", "ls", "-q", "--filter", label)).strip()

    async def disconnect(self, party: str) -> None:
        container = await self.compose.container(party)
        await self.compose.docker("network", "disconnect", await self._network(), container)

    async def connect(self, party: str) -> None:
        container = await self.compose.container(party)
        await self.compose.docker(
            "network", "connect", "--ip", at(party), "--alias", party, await self._network(),
            container,
        )  # fmt: skip

    async def heal(self) -> None:
        """End every fault: paused, cut off and dead containers."""
        for party in (*ETCD, "kafka", *COORDINATORS, *self.instances, "prometheus"):
            shown = await self.compose.inspect(party)
            if shown["State"]["Paused"]:
                await self.unpause(party)
            if not shown["NetworkSettings"]["Networks"]:
                await self.connect(party)
            if not shown["State"]["Running"]:
                await self.start(party)

    # ---- waiting -------------------------------------------------------------------------------

    async def whole(self, limit_s: float = WHOLE_S) -> None:
        """Until etcd has a leader, every process is ready, and every instance is registered."""

        async def look() -> None:
            for name in ETCD:
                await fetch(name, 2379, "/health")
            for name in (*COORDINATORS, *self.instances):
                await fetch(name, 9100, "/readyz")
            if not await self.leaders():
                raise NotConverged("no coordinator leads")
            found = (await self.store.range(INSTANCES_PREFIX)).items
            registered = {decode_instance(item.value).instance for item in found}
            missing = set(self.instances) - registered
            if missing:
                raise NotConverged(f"not registered: {', '.join(sorted(missing))}")

        await eventually(look, limit_s)

    async def converge(self, log: str, limit_s: float = WHOLE_S) -> float:
        """Until each shard has all its copies, in sync and serving; the seconds it took."""
        began_s = time.monotonic()

        async def look() -> None:
            for record in (await self.shards(log)).values():
                if len(record.in_sync) != COPIES or record.learners:
                    raise NotConverged(f"{record.shard}: in sync {_names(record.in_sync)}, "
                                       f"learners {_names(record.learners)}")  # fmt: skip
                if record.hand_over is not None or record.remove or record.migration:
                    raise NotConverged(f"{record.shard} has intents left")
                for member in record.in_sync:
                    await self._serves(member, record)

        await eventually(look, limit_s)
        return time.monotonic() - began_s

    async def _serves(self, member: Member, record: ShardRecord) -> None:
        """The copy is in its role, in the record's epoch, without error."""
        name = member.instance
        statuses = {s.shard: s for s in await self.status(name, record.log)}
        status = statuses.get(record.shard)
        if status is None:
            raise NotConverged(f"{name} has no copy of {record.shard}")
        role = "primary" if record.primary.instance == name else "follower"
        ok = status.role == role and status.epoch == record.epoch
        if not ok or not status.serving or status.error:
            raise NotConverged(
                f"{status.shard} on {name} is {status.role} in epoch {status.epoch} (wanted "
                f"{role}, {record.epoch}), serving {status.serving} {status.error}"
            )

    async def status(self, instance: str, log: str) -> list[node_pb2.ReplicaStatus]:
        async with called():
            stub = NodeAdminStub(self.channel(instance))
            answer = await stub.Status(node_pb2.StatusRequest(), timeout=5.0)
        return [s for s in answer.replicas if s.shard.rpartition("/")[0] == log]


async def fetch(party: str, port: int, path: str) -> str:
    """The body of a 200; NotConverged otherwise."""

    def ask() -> str:
        with urllib.request.urlopen(f"http://{at(party)}:{port}{path}", timeout=3) as reply:
            return str(reply.read().decode())

    try:
        return await asyncio.to_thread(ask)
    except OSError as e:
        raise NotConverged(f"{party} at {path}: {e}") from None


def _names(members: Iterable[object]) -> list[str]:
    return [str(getattr(m, "instance", m)) for m in members]
