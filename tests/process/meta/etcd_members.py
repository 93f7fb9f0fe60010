"""Real etcd clusters for the tests of failure: who leads, and one member with TLS."""

import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import grpc.aio
from aetcd import rpc

from bench.services.base import ServiceProcess
from bench.services.etcd import EtcdCluster
from bench.services.paths import free_ports
from bench.services.runs import ServiceRun
from logstore.base.tls import TlsOptions


async def leader_of(cluster: EtcdCluster) -> int:
    """The index of the member that leads, as its own status says."""
    for index, member in enumerate(cluster.members):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{member.ports[0]}") as channel:
            status = await rpc.MaintenanceStub(channel).Status(rpc.StatusRequest(), timeout=5)
        if status.leader == status.header.member_id:
            return index
    raise AssertionError("no member leads")


def freeze(member: ServiceProcess) -> None:
    assert member.pid is not None
    os.kill(member.pid, signal.SIGSTOP)


def thaw(member: ServiceProcess) -> None:
    assert member.pid is not None
    os.kill(member.pid, signal.SIGCONT)


def make_certificates(folder: Path) -> None:
    """`ca`, `server` and `client` pairs (127.0.0.1), and `other-ca`, as .pem and .key."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for ca in ("ca", "other-ca"):
        openssl(
            "req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem",
            "-days", "2", "-subj", f"/CN={ca}",
        )  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(
            "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/O=logstore",
        )  # fmt: skip
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", "names",
        )  # fmt: skip


class TlsEtcd(EtcdCluster):
    """One member that speaks TLS only, and only to clients with a certificate of its CA."""

    def __init__(self, folder: Path) -> None:
        super().__init__(1)
        make_certificates(folder)
        self._folder = folder
        self._health = ""

    def client(self, ca: str = "ca") -> TlsOptions:
        folder = self._folder
        return TlsOptions(folder / f"{ca}.pem", folder / "client.pem", folder / "client.key")

    def _build(self, run: ServiceRun) -> list[ServiceProcess]:
        (member,) = super()._build(run)
        plain, secure = (f"{scheme}://127.0.0.1:{member.ports[0]}" for scheme in ("http", "https"))
        self._health = f"http://127.0.0.1:{free_ports(1)[0]}"
        member.command = [secure if part == plain else part for part in member.command]
        member.command += [
            "--listen-metrics-urls", self._health, "--client-cert-auth",
            "--trusted-ca-file", str(self._folder / "ca.pem"),
            "--cert-file", str(self._folder / "server.pem"),
            "--key-file", str(self._folder / "server.key"),
        ]  # fmt: skip
        return [member]

    def _ready(self) -> bool:
        with urllib.request.urlopen(f"{self._health}/health", timeout=2) as reply:
            return b'"true"' in reply.read()


async def enable_login(address: str, tls: TlsOptions, password: str) -> None:
    """Create the user root with `password` and require a login."""
    credentials = grpc.ssl_channel_credentials(tls.read("ca"), tls.read("key"), tls.read("cert"))
    async with grpc.aio.secure_channel(address, credentials) as channel:
        stub = rpc.AuthStub(channel)
        await stub.UserAdd(rpc.AuthUserAddRequest(name="root", password=password), timeout=5)
        await stub.RoleAdd(rpc.AuthRoleAddRequest(name="root"), timeout=5)
        await stub.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"), timeout=5)
        await stub.AuthEnable(rpc.AuthEnableRequest(), timeout=5)
