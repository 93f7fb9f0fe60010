"""Redis with an append-only file, for its streams."""

import os
import socket
from typing import Literal

from bench.services.base import GivenService, ProcessService, Service, ServiceError, ServiceProcess
from bench.services.install import program
from bench.services.paths import free_ports
from bench.services.runs import ServiceRun

ADDRESS_VARIABLE = "LOGSTORE_TEST_REDIS"

FsyncPolicy = Literal["everysec", "always"]


def redis_ready(address: str) -> bool:
    """PING until PONG: while the append-only file is loading the answer is an error."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=2.0) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith(b"+PONG")


class RedisServer(ProcessService):
    name = "redis"

    def __init__(
        self, *, appendfsync: FsyncPolicy = "everysec", run: ServiceRun | None = None
    ) -> None:
        super().__init__(run=run)
        self._appendfsync = appendfsync

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.members[0].ports[0]}"

    def _build(self, run: ServiceRun) -> list[ServiceProcess]:
        binary = program("redis-server", packages=["redis-server"])
        if binary is None:
            raise ServiceError(
                "redis-server is missing: install Debian's redis-server (as root it is done for "
                f"you), or name a running one in {ADDRESS_VARIABLE}=host:port"
            )
        self.source = binary
        name, folder = self._member_folder(run, 0)
        (port,) = free_ports(1)
        command = [
            binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder),
            "--appendonly", "yes", "--appendfsync", self._appendfsync, "--save", "",
            "--daemonize", "no",
        ]  # fmt: skip
        return [ServiceProcess(name, folder, command, [port])]

    def _ready(self) -> bool:
        return redis_ready(self.address)


def redis(*, appendfsync: FsyncPolicy = "everysec", run: ServiceRun | None = None) -> Service:
    """A Redis to use: the one `LOGSTORE_TEST_REDIS` names, else one of our own."""
    given = os.environ.get(ADDRESS_VARIABLE)
    if given:
        return GivenService("redis", given, redis_ready)
    return RedisServer(appendfsync=appendfsync, run=run)
