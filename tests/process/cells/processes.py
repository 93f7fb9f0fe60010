"""Coordinators and instances as processes over a real etcd, and a look into its metadata."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.services.paths import free_ports
from logstore.meta.etcd import EtcdMetadataStore
from logstore.meta.port import WatchEvent
from logstore.meta.records import CELLS, cell_leader_key, decode_leader
from tests.support.services import etcd_target

READY_S = 90.0
CELLS_COUNT = 4


@dataclass
class Fleet:
    """The processes of one cluster, by address (coordinators) or name (instances)."""

    url: str
    store: EtcdMetadataStore
    folder: Path
    addresses: list[str]
    settings: tuple[str, ...] = ()
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def start_coordinator(self, address: str) -> None:
        port = address.rsplit(":", 1)[1]
        await self._start(
            address, "coordinator.main", "--data", str(self.folder / f"c{port}"), "--port", port,
            "--metadata", self.url, "--cells", str(CELLS_COUNT), "--report-interval-s", "0.2",
            *self.settings,
        )  # fmt: skip

    async def start_instance(self, name: str, *flags: str) -> None:
        await self._start(
            name, "logstore.node.main", "--instance", name, "--data", str(self.folder / name),
            "--metadata", self.url, "--report-interval-s", "0.2", *flags,
            "--coordinators", *self.addresses,
        )  # fmt: skip

    async def _start(self, name: str, module: str, *flags: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, *flags, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        self.processes[name] = process
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), READY_S)
        assert line.startswith(b"ready "), (self.folder / f"{name}.log").read_text()[-2000:]

    async def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        await process.wait()

    async def close(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*(p.wait() for p in self.processes.values()))
        await self.store.close()

    async def leaders(self) -> dict[str, str]:
        """Cell -> address of its leader now."""
        found = {}
        for item in (await self.store.range(CELLS)).items:
            found[item.key.split("/")[2]] = decode_leader(item.value).address
        return found

    async def settled(self, expected: dict[str, str], within_s: float = READY_S) -> None:
        """Until the cells have exactly these leaders."""
        async with asyncio.timeout(within_s):
            revision = (await self.store.range(CELLS)).revision
            watch = self.store.watch(CELLS, revision)
            if await self.leaders() == expected:
                return
            async for _ in watch:
                if await self.leaders() == expected:
                    return

    async def next_leader(self, cell: str, after: int, within_s: float = READY_S) -> WatchEvent:
        """The first one elected above a revision."""
        async with asyncio.timeout(within_s):
            async for events in self.store.watch(cell_leader_key(cell), after):
                for event in events:
                    if event.value is not None:
                        return event
        raise AssertionError("the watch ended")


@contextlib.asynccontextmanager
async def fleet(etcd: str, folder: Path, coordinators: int, *settings: str) -> AsyncIterator[Fleet]:
    """A fleet with so many addresses for coordinators; nothing runs yet."""
    target = etcd_target(etcd)
    addresses = [f"127.0.0.1:{port}" for port in free_ports(coordinators)]
    made = Fleet(
        f"etcd://{etcd}{target.namespace}", EtcdMetadataStore(target), folder, addresses, settings
    )
    try:
        yield made
    finally:
        await made.close()
