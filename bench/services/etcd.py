"""A real etcd: one or three members."""

import json
import os
import urllib.request

from bench.services.base import GivenService, ProcessService, Service, ServiceError, ServiceProcess
from bench.services.install import docker_works, in_docker, program
from bench.services.paths import free_ports
from bench.services.runs import ServiceRun

ADDRESS_VARIABLE = "LOGSTORE_TEST_ETCD"
IMAGE_VARIABLE = "LOGSTORE_ETCD_IMAGE"
MEMBERS_ALLOWED = (1, 3)
ASK_TIMEOUT_S = 2.0


def etcd_ready(address: str) -> bool:
    """Ask every member's /health, which does a linearizable read: there is a leader."""
    for member in address.split(","):
        try:
            with urllib.request.urlopen(f"http://{member}/health", timeout=ASK_TIMEOUT_S) as reply:
                if json.load(reply).get("health") != "true":
                    return False
        except (OSError, ValueError):
            return False
    return True


class EtcdCluster(ProcessService):
    name = "etcd"

    def __init__(self, members: int = 1, *, run: ServiceRun | None = None) -> None:
        super().__init__(run=run)
        if members not in MEMBERS_ALLOWED:
            raise ServiceError(f"members is {members}, allowed are {MEMBERS_ALLOWED}")
        self.size = members

    @property
    def address(self) -> str:
        return ",".join(f"127.0.0.1:{member.ports[0]}" for member in self.members)

    def _build(self, run: ServiceRun) -> list[ServiceProcess]:
        image = None
        binary = program("etcd", packages=["etcd-server"])
        if binary is not None:
            self.source = binary
        else:
            image = os.environ.get(IMAGE_VARIABLE)
            if image is None or not docker_works():
                raise ServiceError(
                    "etcd is missing: install Debian's etcd-server (as root it is done for you), "
                    f"or start Docker and name an image in {IMAGE_VARIABLE}, or name a running "
                    f"one in {ADDRESS_VARIABLE}=host:port[,host:port...]"
                )
            binary, self.source = "etcd", f"Docker image {image}"
        ports = free_ports(2 * self.size)
        cluster = ",".join(
            f"m{index}=http://127.0.0.1:{ports[2 * index + 1]}" for index in range(self.size)
        )
        members = []
        for index in range(self.size):
            name, folder = self._member_folder(run, index)
            client, peer = (f"http://127.0.0.1:{p}" for p in ports[2 * index : 2 * index + 2])
            command = [
                binary, "--name", f"m{index}", "--data-dir", str(folder / "data"),
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", cluster, "--initial-cluster-state", "new",
                "--initial-cluster-token", run.run_id,
            ]  # fmt: skip
            own = ports[2 * index : 2 * index + 2]
            member = ServiceProcess(name, folder, command, own, {"ETCD_UNSUPPORTED_ARCH": "arm64"})
            if image is not None:
                in_docker(member, image, run.folder)
            members.append(member)
        return members

    def _ready(self) -> bool:
        return etcd_ready(self.address)


def etcd(members: int = 1, *, run: ServiceRun | None = None) -> Service:
    """An etcd to use: the one `LOGSTORE_TEST_ETCD` names, else a cluster of our own."""
    given = os.environ.get(ADDRESS_VARIABLE)
    if given:
        return GivenService("etcd", given, etcd_ready)
    return EtcdCluster(members, run=run)
