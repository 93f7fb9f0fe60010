"""NATS with JetStream. Debian's 2.9 rejects `sync_interval`, so the pinned one is built by Go."""

import os
import re
import subprocess
import urllib.request
from pathlib import Path

from bench.services.base import GivenService, ProcessService, Service, ServiceError, ServiceProcess
from bench.services.install import cache_lock, may_install, on_path, program
from bench.services.paths import free_ports
from bench.services.runs import ServiceRun

ADDRESS_VARIABLE = "LOGSTORE_TEST_NATS"
VERSION = "v2.14.9"
MODULE = "github.com/nats-io/nats-server/v2"
MINIMUM = (2, 10)


def _new_enough(binary: str) -> bool:
    printed = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False)
    match = re.search(r"v(\d+)\.(\d+)", printed.stdout + printed.stderr)
    return match is not None and (int(match.group(1)), int(match.group(2))) >= MINIMUM


def nats_binary() -> str:
    """A nats-server of 2.10 or newer: on PATH, cached, or built from the Go module proxy."""
    found = on_path("nats-server")
    if found is not None and _new_enough(found):
        return found
    with cache_lock(f"nats/{VERSION}") as folder:
        binary = folder / "nats-server"
        if binary.is_file():
            return str(binary)
        go = program("go", packages=["golang-go"])
        if go is None or not may_install():
            raise ServiceError(
                "nats-server 2.10 or newer is missing: put it on PATH, or install Go "
                f"(then `go install {MODULE}@{VERSION}` is done for you), or name a running one "
                f"in {ADDRESS_VARIABLE}=host:port"
            )
        environment = {**os.environ, "GOBIN": str(folder), "GOFLAGS": "-buildvcs=false"}
        command = [go, "install", f"{MODULE}@{VERSION}"]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=False, cwd=folder
        )
        if done.returncode != 0:
            raise ServiceError(f"building nats-server failed:\n{done.stderr[-2000:]}")
        return str(binary)


class NatsServer(ProcessService):
    """One server with file storage. `sync_always`: fsync before each ack, else every two minutes
    (the server's own default)."""

    name = "nats"

    def __init__(self, *, sync_always: bool = False, run: ServiceRun | None = None) -> None:
        super().__init__(run=run)
        self._sync_always = sync_always

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.members[0].ports[0]}"

    def _build(self, run: ServiceRun) -> list[ServiceProcess]:
        binary = nats_binary()
        self.source = binary if Path(binary).parent.name != VERSION else f"Go module {VERSION}"
        name, folder = self._member_folder(run, 0)
        port, monitor = free_ports(2)
        sync = "sync_interval: always" if self._sync_always else ""
        (folder / "nats.conf").write_text(
            f"listen: 127.0.0.1:{port}\nhttp: 127.0.0.1:{monitor}\nmax_payload: 8MB\n"
            f'jetstream {{\n  store_dir: "{folder / "data"}"\n  {sync}\n}}\n'
        )
        return [
            ServiceProcess(name, folder, [binary, "-c", str(folder / "nats.conf")], [port, monitor])
        ]

    def _ready(self) -> bool:
        url = f"http://127.0.0.1:{self.members[0].ports[1]}/healthz"
        with urllib.request.urlopen(url, timeout=2.0) as reply:
            return bool(reply.status == 200)


def _given_ready(address: str) -> bool:
    import socket

    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=2.0) as connection:
        return connection.recv(5) == b"INFO "


def nats(*, sync_always: bool = False, run: ServiceRun | None = None) -> Service:
    """A NATS server to use: the one `LOGSTORE_TEST_NATS` names, else one of our own."""
    given = os.environ.get(ADDRESS_VARIABLE)
    if given:
        return GivenService("nats", given, _given_ready)
    return NatsServer(sync_always=sync_always, run=run)
