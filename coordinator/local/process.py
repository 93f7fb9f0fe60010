"""One supervised process: started, watched, started again when it dies, stopped within a bound."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from logstore.base.address import Address
from logstore.base.background import Background, end
from logstore.base.backoff import Backoff
from logstore.base.errors import AddressInUseError, ConfigError, LogstoreError, UnavailableError

READY = "ready "
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
STEADY_S = 10.0
"""After running this long, the next restart is immediate again."""
FIRST_STARTS_MAX = 5
"""A process that died this often without ever having served is given up."""
STOP_TIMEOUT_S = 10.0
"""Between SIGTERM and SIGKILL."""


def listen_flag(address: str) -> dict[str, object]:
    """An instance's settings for its address."""
    return {"listen": address}


def host_and_port(address: str) -> dict[str, object]:
    """The coordinator's settings for its address."""
    found = Address.of(address, port_min=0)
    return {"host": found.host, "port": found.port}


class Supervised:
    """A module run as `MODULE --name value…` that prints `ready ADDRESS`. Settings that are lists
    become several values; None is left out.

    Its standard error goes to `log`. After the first start it keeps its address. A first start that
    ends with status 2 (bad settings) is not repeated: `start` raises its error line. One that dies
    otherwise is repeated up to FIRST_STARTS_MAX times.
    """

    def __init__(
        self,
        name: str,
        module: str,
        listen: str,
        listen_settings: Callable[[str], dict[str, object]],
        settings: Mapping[str, object],
        log: Path,
    ) -> None:
        self.name, self.log = name, log
        self.settings = dict(settings)
        self.restarts = 0
        self.pid: int | None = None
        self._module, self._listen, self._listen_settings = module, listen, listen_settings
        self._was_ready = False
        self._said = ""
        self._ready = asyncio.Event()
        self._failure: LogstoreError | None = None
        self._log_from = 0
        """Where the lines of the present run begin in the log."""
        self._stopping = asyncio.Event()
        self._tasks = Background(f"supervisor of {name}")
        self._watch: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """`host:port`; fixed once the process was ready."""
        return self._listen

    async def start(self, timeout_s: float) -> str:
        """Start; returns the address once it serves. ConfigError, UnavailableError (too late)."""
        self._stopping.clear()
        self._watch = self._tasks.start(self._keep_alive())
        await self.wait_ready(timeout_s)
        return self.address

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the process (this run of it) serves."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            raise UnavailableError(
                f"{self.name} does not serve after {timeout_s:g} s, see {self.log}"
            ) from None
        if self._failure is not None:
            raise self._failure

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal, as a fault; the supervisor starts the process again. Returns its pid."""
        if self.pid is None:
            raise UnavailableError(f"{self.name} does not run now")
        self._ready.clear()
        os.kill(self.pid, number)
        return self.pid

    def lose(self) -> int:
        """kill -9, without a restart. Returns its pid."""
        self._stopping.set()
        return self.kill()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after STOP_TIMEOUT_S, without a restart."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        if self._watch is None:
            return
        done, _ = await asyncio.wait([self._watch], timeout=STOP_TIMEOUT_S)
        if not done:
            self._signal(signal.SIGKILL)
        await end(self._watch)
        self._watch = None

    def _signal(self, number: int) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S)
        while True:
            began_s = loop.time()
            try:
                status = await self._run()
            except OSError as e:
                self._failure = ConfigError(f"{self.name} cannot be started: {e}")
                self._ready.set()
                return
            self._ready.clear()
            if self._stopping.is_set():
                return
            if not self._was_ready and (status == 2 or self.restarts + 1 >= FIRST_STARTS_MAX):
                self._failure = self._error(status)
                self._ready.set()
                return
            self._tell(status)
            if loop.time() - began_s > STEADY_S:
                backoff.reset()
            self.restarts += 1
            await asyncio.sleep(backoff.next_s())
            if self._stopping.is_set():
                return

    async def _run(self) -> int:
        flags = [
            part
            for name, value in (self.settings | self._listen_settings(self._listen)).items()
            if value is not None
            for part in (
                f"--{name.replace('_', '-')}",
                *([_flag(item) for item in value] if isinstance(value, list) else [_flag(value)]),
            )
        ]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_from = log.tell()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "coordinator.local.child",
                str(os.getpid()),
                self._module,
                *flags,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.pid = process.pid
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        try:
            await self._listen_to(process)
            return await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        finally:
            self.pid = None

    async def _listen_to(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode(errors="replace").strip()
            if text.startswith(READY):
                self._listen = text.removeprefix(READY)
                self._was_ready = True
                self._ready.set()

    def _tell(self, status: int) -> None:
        """Say on standard error why a process that served ended, once for each reason."""
        said = self._error(status).message
        if status != -signal.SIGKILL and said != self._said:
            self._said = said
            print(f"{self.name} ended with status {status}: {said}", file=sys.stderr, flush=True)

    def _error(self, status: int) -> LogstoreError:
        """The `error: …` line, or the last line, of this run of the process in its log."""
        lines = self.log.read_bytes()[self._log_from :].decode(errors="replace").splitlines()
        if status not in (2, 4):
            last = lines[-1] if lines else "it printed nothing"
            return UnavailableError(f"{self.name} does not start: {last} (see {self.log})")
        said = [line.partition("error: ")[2] for line in lines if "error: " in line]
        text = said[-1] if said else f"{self.name} refused its settings, see {self.log}"
        kind = AddressInUseError if "port is in use" in text else ConfigError
        return kind(text)


def _flag(value: object) -> str:
    """A setting in the form that its process reads: fields of fields as JSON, all else as text."""
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else str(value)
