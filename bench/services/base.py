"""A service: real processes of another project, started, polled until ready, stopped, removed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from bench.services import launch
from bench.services.runs import RUN_VARIABLE, ServiceRun, keep_logs, shared_run

READY_DEADLINE_S = 90.0
STOP_DEADLINE_S = 20.0
POLL_S = 0.05
LOG_TAIL_BYTES = 2_000
PORT_ATTEMPTS = 3


class ServiceError(RuntimeError):
    """A service is missing or did not get ready; says what is missing and how to get it."""


class Service(Protocol):
    """The interface for tests, benchmarks and demos. All calls block; only `async with` does
    not."""

    name: str
    source: str

    @property
    def address(self) -> str:
        """`host:port`, comma-separated where there are several members."""

    def start(self) -> None:
        """Start and wait until ready. ServiceError with the log's tail otherwise."""

    def wait_ready(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """Ask the service itself until it says it serves."""

    def stop(self) -> None:
        """Stop in order; data stays. Idempotent."""

    def wipe(self) -> None:
        """Stop and remove data and logs. Idempotent."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...


def under_guard(command: Sequence[str], pidfile: Path, run: ServiceRun) -> list[str]:
    """The command, started so that it ends with us (give it a pipe as standard input and keep
    that open), or, in a detached run, so that it stays and can be found."""
    mode = ["hold"] if run.detached else ["guard", str(run.folder)]
    launcher = [sys.executable, "-S", "-E", launch.__file__]
    return [*launcher, str(pidfile), *mode, "--", *command]


@dataclass(slots=True)
class ServiceProcess:
    """One process of a service, with its folder (data, `pid`, `<name>.log`)."""

    name: str
    folder: Path
    command: list[str]
    ports: list[int]
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The service's own pid (not its guard's), None before it has one."""
        try:
            return int((self.folder / "pid").read_text())
        except (OSError, ValueError):
            return None

    def logs(self) -> list[Path]:
        """Its output, and the logs that its own children write under its data folder."""
        return [self.log_path, *sorted(self.folder.glob("data/logs/*.log"))]

    def log_tail(self) -> str:
        tails = []
        for path in self.logs():
            try:
                tails.append(path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace"))
            except OSError:
                continue
        return "\n".join(tails)

    def spawn(self, run: ServiceRun) -> None:
        (self.folder / "pid").unlink(missing_ok=True)
        environment = {**os.environ, **self.environment, RUN_VARIABLE: run.run_id}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                under_guard(self.command, self.folder / "pid", run),
                stdin=subprocess.DEVNULL if run.detached else subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )

    def exited(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def end(self, *, kill: bool, deadline_s: float = STOP_DEADLINE_S) -> None:
        """Terminate it and wait; after the deadline, or at once with `kill`, kill it."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None and not kill:
            process.terminate()
            try:
                process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                kill = True
        if process.poll() is None and kill:
            self._kill_service(process)
        if process.stdin is not None:
            process.stdin.close()

    def _kill_service(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the service itself and let its guard reap it: once the guard has ended, the ports
        are free. Killing the guard first would leave the kernel to kill the service a bit later."""
        pid = self.pid
        if pid is not None and pid != process.pid:
            try:
                os.killpg(pid, signal.SIGKILL)  # it leads its own group, children included
                process.wait(STOP_DEADLINE_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
        process.kill()
        process.wait()


class ProcessService(ABC):
    """Members started together. A subclass says what to run and how to test readiness."""

    name: str

    def __init__(self, *, run: ServiceRun | None = None) -> None:
        self.source = "not started"
        self.members: list[ServiceProcess] = []
        self._run = run
        self._serial = 0

    @abstractmethod
    def _build(self, run: ServiceRun) -> list[ServiceProcess]:
        """Find the program, choose ports, write configuration; ServiceError if it cannot be had."""

    @abstractmethod
    def _ready(self) -> bool:
        """Ask the service once. False or an OSError means: not yet."""

    @property
    @abstractmethod
    def address(self) -> str: ...

    def start(self) -> None:
        if self.members:
            for index in range(len(self.members)):
                self.start_member(index)
            self.wait_ready()
            return
        run = self._run or shared_run()
        self._run = run
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self.members = self._build(run)
            for member in self.members:
                member.spawn(run)
            try:
                self.wait_ready()
                return
            except ServiceError:
                taken = any("in use" in member.log_tail() for member in self.members)
                if not taken or attempt == PORT_ATTEMPTS:
                    self._keep_logs("start")
                    self.wipe()
                    raise
                self.wipe()  # another process took a port between choosing and binding

    def wait_ready(self, deadline_s: float = READY_DEADLINE_S) -> None:
        give_up = time.monotonic() + deadline_s
        while not self._ask():
            for member in self.members:
                if member.process is not None and member.exited():
                    raise ServiceError(
                        f"{member.name} ended before it was ready; its log ends:\n"
                        f"{member.log_tail()}"
                    )
            if time.monotonic() > give_up:
                tails = "\n".join(f"--- {m.name}\n{m.log_tail()}" for m in self.members)
                raise ServiceError(f"{self.name} is not ready after {deadline_s:g} s\n{tails}")
            time.sleep(POLL_S)

    def _ask(self) -> bool:
        try:
            return self._ready()
        except OSError:
            return False

    def start_member(self, index: int) -> None:
        """Start a member that was stopped or killed, on its old ports and data."""
        member = self.members[index]
        if member.exited():
            assert self._run is not None
            member.end(kill=True)
            member.spawn(self._run)

    def kill_member(self, index: int) -> None:
        """kill -9, for tests of failure."""
        self.members[index].end(kill=True)

    def stop(self) -> None:
        for member in reversed(self.members):
            if member.process is not None and member.process.poll() is None:
                member.process.terminate()  # all at once: a quorum must not wait for dead members
        for member in reversed(self.members):
            member.end(kill=False)

    def wipe(self) -> None:
        import shutil

        for member in self.members:
            member.end(kill=True)
            container = member.folder / "container"
            if container.is_file():
                command = ["docker", "rm", "-f", container.read_text()]
                subprocess.run(command, capture_output=True, check=False)
            shutil.rmtree(member.folder, ignore_errors=True)
        self.members = []

    def _keep_logs(self, label: str) -> None:
        for member in self.members:
            keep_logs(member.logs(), f"{label}-{member.name}")

    def _member_folder(self, run: ServiceRun, index: int) -> tuple[str, Path]:
        """A name and folder that no other service of this run has."""
        self._serial += 1
        name = f"{self.name}-{index}"
        return name, run.member_folder(f"{name}-{id(self):x}-{self._serial}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if exc and exc[0] is not None:
            self._keep_logs("failed")
        self.wipe()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.__exit__, *exc)


class GivenService:
    """A service of another owner, named by an address: used, never stopped or removed."""

    def __init__(self, name: str, address: str, ready: Callable[[str], bool]) -> None:
        self.name = name
        self.source = f"given address {address}"
        self._address = address
        self._is_ready = ready

    @property
    def address(self) -> str:
        return self._address

    def start(self) -> None:
        self.wait_ready()

    def wait_ready(self, deadline_s: float = 10.0) -> None:
        give_up = time.monotonic() + deadline_s
        while True:
            try:
                if self._is_ready(self._address):
                    return
            except OSError:
                pass
            if time.monotonic() > give_up:
                raise ServiceError(f"{self.name} at {self._address} does not answer")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Nothing to do: it is not ours."""

    def wipe(self) -> None:
        """Nothing to do: it is not ours."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None


def run_to_end(
    command: Sequence[str], *, what: str, environment: Mapping[str, str] | None = None
) -> str:
    """Run a short command; its output, or ServiceError with the output's tail."""
    merged = {**os.environ, **(environment or {})}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=merged, timeout=900
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"{what}: {error}") from error
    if done.returncode != 0:
        tail = (done.stdout + done.stderr)[-LOG_TAIL_BYTES:]
        raise ServiceError(f"{what} failed with exit code {done.returncode}:\n{tail}")
    return done.stdout
