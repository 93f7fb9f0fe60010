"""One process in its network namespace: started, killed, frozen, ended, started again."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from logstore.node.server import STATUS_RESTART
from tests.cluster.network import Network

STOP_TIMEOUT_S = 20.0
AGAIN_S = 0.3


class Party:
    """`ready`: it printed `ready …` in its present life (etcd never does).

    `supervised`: one that ends by itself is started again, as a coordinator that lost its
    leadership asks for; of any other party that is an `unexpected` end, unless it asks for it.
    """

    def __init__(
        self, network: Network, name: str, command: Sequence[str], log: Path, *,
        environment: dict[str, str] | None = None, supervised: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.log = name, log
        self.unexpected: list[str] = []
        self.ready = asyncio.Event()
        self.frozen = False
        self._command = network.within(name, command)
        self._environment = {**os.environ, **(environment or {})}
        self._supervised = supervised
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._wanted = False

    @property
    def up(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        if self.up:
            return
        self._wanted = True
        self.ready.clear()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._environment,
            )
        self._watch = asyncio.create_task(self._listen(self._process))

    async def kill(self) -> None:
        """kill -9; returns when it is gone."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help (which is reported as an unexpected end)."""
        self.thaw()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._end(signal.SIGTERM)
        except TimeoutError:
            self.unexpected.append(f"{self.name} did not end by SIGTERM in {STOP_TIMEOUT_S:g} s")
            await self.kill()

    def freeze(self) -> None:
        self._send(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        if self.frozen:
            self._send(signal.SIGCONT)
            self.frozen = False

    async def _end(self, number: int) -> None:
        self._wanted = False
        self.frozen = False
        if self._process is not None:
            self._send(number)
            await self._process.wait()
        if self._watch is not None:
            await asyncio.gather(self._watch, return_exceptions=True)

    def _send(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            if line.startswith(b"ready "):
                self.ready.set()
        status = await process.wait()
        self.ready.clear()
        if not self._wanted:
            return
        if status == STATUS_RESTART or (self._supervised and status in (0, 1)):
            await asyncio.sleep(AGAIN_S)
            if self._wanted:
                await self.start()
        else:
            self.unexpected.append(f"{self.name} ended by itself with status {status}")
