"""A whole cluster of real processes on one machine: coordinator (several with etcd), N instances.

Data is under one directory (`coordinator/`, `instance-1/` …, `logs/`), which one supervisor holds
at a time; the next one goes on with it. A process that dies is started again on its
port, so clients find it where it was.
"""

import asyncio
import contextlib
import math
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import grpc.aio
from annotated_types import Unit

from coordinator.answers.base import decode
from coordinator.answers.catalog import InstanceRow
from coordinator.config import Autopilot
from coordinator.limits import COORDINATORS, INSTANCES, PORT
from coordinator.local.identities import cluster_of
from coordinator.local.instance_spec import InstanceSpec, specs_of
from coordinator.local.process import Supervised, host_and_port, listen_flag
from logstore.base.address import Address
from logstore.base.directory_lock import DirectoryLock
from logstore.base.errors import (
    AddressInUseError,
    ConfigError,
    LogstoreError,
    UnavailableError,
    UnknownInstanceError,
)
from logstore.meta.records import CapacityRecord
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import CatalogStub, PlansStub
from logstore.proto.status import called
from sharder.settings import complaint

COORDINATOR = "coordinator"
POLL_S = 0.1
CALL_TIMEOUT_S = 2.0
ORDER_TIMEOUT_S = 15.0
"""An order may wait for the election of a leader."""


AUTOPILOT = tuple(mode.value for mode in Autopilot)


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What to run. `port` 0 takes free ports; else the coordinator's, instances take the free ones
    after it. `capacities`: one for each instance, fewer or none: unlimited. Settings are
    passed on as they are (CoordinatorConfig, NodeConfig). `autopilot`: on, forecast-only or off;
    None leaves it as it is. `metadata`: an etcd URL, instead of a store in the coordinator.
    `kafka`: HOST:PORT,… of a broker that moves feed through. `replicas`: default of new logs.
    `coordinators`: more than one share the cells, which needs `metadata`. `specs`: names, tiers,
    zones and capacities of the first instances; the others are `instance-N`.
    """

    data: Path
    instances: Annotated[int, INSTANCES, Unit("instances")] = 1
    port: Annotated[int, PORT, Unit("(port)")] = 0
    host: str = "127.0.0.1"
    capacities: Sequence[CapacityRecord] = ()
    coordinator_settings: Mapping[str, object] = field(default_factory=dict)
    node_settings: Mapping[str, object] = field(default_factory=dict)
    autopilot: str | None = None
    start_timeout_s: float = 60.0
    metadata: str | None = None
    kafka: str | None = None
    replicas: int | None = None
    coordinators: Annotated[int, COORDINATORS, Unit("coordinators")] = 1
    specs: Sequence[InstanceSpec] = ()

    def __post_init__(self) -> None:
        said = complaint(self)
        if said is not None:
            raise ConfigError(said)
        if self.replicas is not None and not 1 <= self.replicas <= self.instances:
            raise ConfigError(
                f"replicas is {self.replicas}, with {self.instances} instances 1 to "
                f"{self.instances} are allowed"
            )
        if self.coordinators > 1 and self.metadata is None:
            raise ConfigError(
                f"coordinators is {self.coordinators}, the embedded store has 1: give metadata"
            )
        if self.metadata is not None and not self.metadata.startswith(("etcd://", "etcds://")):
            raise ConfigError(
                f"metadata is {self.metadata[:200]!r}, it must be etcd://HOST:PORT,… or left out"
            )
        if self.autopilot not in (None, *AUTOPILOT):
            raise ConfigError(
                f"autopilot is {self.autopilot!r}, it must be one of {', '.join(AUTOPILOT)}"
            )
        for capacity in self.capacities:
            _check_capacity(capacity)


class LocalCluster:
    """The running processes. Make it with `local_cluster`."""

    def __init__(self, options: ClusterOptions) -> None:
        self.options = options
        self.data = options.data
        names = [COORDINATOR, *(f"{COORDINATOR}-{n}" for n in range(2, options.coordinators + 1))]
        self._coordinators = [
            Supervised(
                name,
                "coordinator.main",
                str(Address(options.host, options.port if name == COORDINATOR else 0)),
                host_and_port,
                {
                    "data": options.data / name,
                    "metadata": options.metadata,
                    "kafka": options.kafka,
                    "replicas": options.replicas,
                    **options.coordinator_settings,
                },
                self._log(name),
            )
            for name in names
        ]
        self._coordinator = self._coordinators[0]
        self._instances: dict[str, Supervised] = {}

    @property
    def address(self) -> str:
        """The (first) coordinator's `host:port`."""
        return self._coordinator.address

    @property
    def coordinator_addresses(self) -> list[str]:
        """`host:port` of each coordinator."""
        return [c.address for c in self._coordinators]

    @property
    def instance_addresses(self) -> dict[str, str]:
        return {name: process.address for name, process in self._instances.items()}

    @property
    def addresses(self) -> str:
        """All processes, for a client that must work while a coordinator is down."""
        return ",".join(p.address for p in self._processes())

    @property
    def pids(self) -> dict[str, int]:
        """Of the processes that run now."""
        return {p.name: p.pid for p in self._processes() if p.pid is not None}

    @property
    def restarts(self) -> dict[str, int]:
        return {p.name: p.restarts for p in self._processes()}

    def kill(self, name: str) -> int:
        """kill -9 of `coordinator` or an instance; the supervisor starts it again. Returns the pid
        that was killed."""
        return self._process(name).kill()

    def lose(self, name: str) -> int:
        """kill -9 of a process that stays away. Returns its pid."""
        return self._process(name).lose()

    async def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until every process serves and the coordinator counts every instance as alive."""
        limit_s = self.options.start_timeout_s if timeout_s is None else timeout_s
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        for process in self._processes():
            await process.wait_ready(max(deadline - loop.time(), 0.0))
        why = "no coordinator was asked"
        async with open_channel(self.address) as channel:
            while loop.time() < deadline:
                try:
                    missing = await self._missing(channel)
                    if not missing:
                        return
                    why = f"not alive: {', '.join(sorted(missing))}"
                except LogstoreError as e:
                    why = e.message
                await asyncio.sleep(POLL_S)
        raise UnavailableError(f"the cluster is not ready after {limit_s:g} s: {why}")

    async def restart_instance(self, name: str, settings: Mapping[str, object]) -> None:
        """Stop an instance cleanly and start it with changed settings on the same address."""
        process = self._process(name)
        await process.stop()
        process.settings |= settings
        await process.start(self.options.start_timeout_s)

    async def state_capacities(self, capacities: Sequence[CapacityRecord]) -> None:
        """Restart the instances with these capacities, in their order, and wait until all serve."""
        work = [
            self.restart_instance(name, _capacity_settings(capacity))
            for name, capacity in zip(self._instances, capacities, strict=True)
        ]
        await asyncio.gather(*work)
        await self.wait_ready()

    async def set_autopilot(self, mode: str) -> None:
        """`on`, `forecast-only` or `off`."""
        async with open_channel(self.address) as channel, called():
            request = coordinator_pb2.SetAutopilotRequest(mode=mode)
            await PlansStub(channel).SetAutopilot(request, timeout=ORDER_TIMEOUT_S)

    async def start(self) -> None:
        options = self.options
        if options.port:
            _check_port(options.host, options.port)
        self._expect(cluster_of(self.data))
        await asyncio.gather(*(c.start(options.start_timeout_s) for c in self._coordinators))
        port = options.port
        for at, spec in enumerate(specs_of((), options.specs, options.instances)):
            port = _free_port_after(options.host, port) if port else 0
            stated = options.capacities[at] if at < len(options.capacities) else CapacityRecord()
            self._make_instance(spec.name, port, _capacity_settings(stated) | spec.settings())
        starts = [p.start(options.start_timeout_s) for p in self._instances.values()]
        await asyncio.gather(*starts)
        await self.wait_ready()
        self._expect(cluster_of(self.data))
        if options.autopilot is not None:
            await self.set_autopilot(options.autopilot)

    def _expect(self, cluster: str | None) -> None:
        """From their next start on the coordinators accept only this cluster's metadata."""
        for coordinator in self._coordinators:
            coordinator.settings["cluster"] = cluster

    async def add_instance(self, settings: Mapping[str, object] | None = None) -> str:
        """Start one more instance; returns its name once it is known and alive."""
        if len(self._instances) >= INSTANCES.le:  # type: ignore[operator]
            raise ConfigError(f"instances is {INSTANCES.le} already, the limit")
        numbers = range(1, len(self._instances) + 2)
        name = next(n for i in numbers if (n := f"instance-{i}") not in self._instances)
        process = self._make_instance(name, 0, settings or {})
        await process.start(self.options.start_timeout_s)
        await self.wait_ready()
        return process.name

    def _make_instance(self, name: str, port: int, settings: Mapping[str, object]) -> Supervised:
        options = self.options
        given = {
            "instance": name,
            "data": self.data / name,
            "metadata": options.metadata or self.address,
            "coordinators": self.coordinator_addresses,
            "kafka": options.kafka,
            **options.node_settings,
            **settings,
        }
        listen, log = str(Address(options.host, port)), self._log(name)
        made = Supervised(name, "logstore.node.main", listen, listen_flag, given, log)
        self._instances[name] = made
        return made

    async def stop(self) -> None:
        """Instances first: they send their last statistics to a running coordinator."""
        await asyncio.gather(*(p.stop() for p in self._instances.values()))
        await asyncio.gather(*(c.stop() for c in self._coordinators))

    async def _missing(self, channel: grpc.aio.Channel) -> set[str]:
        async with called():
            answer = await CatalogStub(channel).ListInstances(
                coordinator_pb2.ListInstancesRequest(), timeout=CALL_TIMEOUT_S
            )
        rows = [decode(item, InstanceRow) for item in answer.instances_json]
        alive = {row.instance: row.address for row in rows if row.alive}
        return {
            name for name, address in self.instance_addresses.items() if alive.get(name) != address
        }

    def _processes(self) -> list[Supervised]:
        return [*self._coordinators, *self._instances.values()]

    def _process(self, name: str) -> Supervised:
        for process in self._processes():
            if process.name == name:
                return process
        raise UnknownInstanceError(
            f"process {name!r} is not known; known: {[p.name for p in self._processes()]}"
        )

    def _log(self, name: str) -> Path:
        return self.data / "logs" / f"{name}.log"


@contextlib.asynccontextmanager
async def running(options: ClusterOptions) -> AsyncIterator[LocalCluster]:
    """A cluster that serves; stopped at the end, its data stays.

    Errors: DirectoryInUseError, AddressInUseError, ConfigError, UnavailableError (too slow).
    """
    with _hold(options.data):
        cluster = LocalCluster(options)
        try:
            await cluster.start()
            yield cluster
        finally:
            await cluster.stop()


def local_cluster(
    instances: int = 1,
    *,
    data: Path,
    port: int = 0,
    capacities: Sequence[CapacityRecord] = (),
    coordinator_settings: Mapping[str, object] | None = None,
    node_settings: Mapping[str, object] | None = None,
    autopilot: str | None = None,
    kafka: str | None = None,
) -> contextlib.AbstractAsyncContextManager[LocalCluster]:
    """`async with local_cluster(3, data=folder) as cluster`; see ClusterOptions and `running`."""
    options = ClusterOptions(
        data=data,
        instances=instances,
        port=port,
        capacities=capacities,
        coordinator_settings=coordinator_settings or {},
        node_settings=node_settings or {},
        autopilot=autopilot,
        kafka=kafka,
    )
    return running(options)


@contextlib.contextmanager
def _hold(data: Path) -> Iterator[None]:
    """Hold the directory for this process; DirectoryInUseError when another one does."""
    try:
        lock = DirectoryLock(data, "lock")
    except OSError as e:
        raise ConfigError(f"data directory {data}: {e.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def _check_port(host: str, port: int) -> None:
    if not _is_free(host, port):
        raise AddressInUseError(f"port {port} on {host} is in use")


def _free_port_after(host: str, port: int) -> int:
    """The next free port after `port`, or 0."""
    return next((p for p in range(port + 1, min(port + 100, 65_536)) if _is_free(host, p)), 0)


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _check_capacity(capacity: CapacityRecord) -> None:
    """Refuse it here, not by the instance after the others have started."""
    for name in ("ops_per_s", "bytes_per_s", "stored_bytes"):
        value = getattr(capacity, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{name} is {value}, it must be above 0 and finite, or left out")


def _capacity_settings(capacity: CapacityRecord) -> dict[str, object]:
    return {
        "ops_per_s_max": capacity.ops_per_s,
        "bytes_per_s_max": capacity.bytes_per_s,
        "stored_bytes_max": capacity.stored_bytes,
    }
