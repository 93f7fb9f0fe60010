"""One reading of `host:port` for every option; members are dialled directly."""

import asyncio
import ipaddress
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.cli.main import main
from coordinator.config import CoordinatorConfig
from coordinator.local.process import host_and_port
from coordinator.server import CoordinatorServer
from logstore.base.address import Address, parse_address, parse_addresses, parse_host
from logstore.base.env import Env
from logstore.base.errors import ConfigError, InvalidArgumentError
from logstore.client.client import connect
from logstore.meta.etcd.target import EtcdTarget
from logstore.meta.records import INSTANCES
from logstore.meta.settings import MetadataSettings
from logstore.node.config import NodeConfig
from logstore.node.server import NodeServer
from logstore.proto.channel import USE_PROXY, open_channel

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?", fullmatch=True)
HOSTS = NAMES | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)
PORTS = st.integers(1, 65_535)

BAD = [
    ("", "missing"),
    ("host", "port is missing"),
    ("host:", "port is ''"),
    (":7400", "host is missing"),
    ("[]:7400", "host is missing"),
    ("host:0", "limit is 1 to 65535"),
    ("host:65536", "limit is 1 to 65535"),
    ("host:-1", "limit is 1 to 65535"),
    ("host:+1", "limit is 1 to 65535"),
    ("host:7_400", "limit is 1 to 65535"),
    ("host:٧٤٠٠", "limit is 1 to 65535"),
    ("host:7400 x", "limit is 1 to 65535"),
    ("host:" + "9" * 5_000, "limit is 1 to 65535"),
    ("::1", "ambiguous"),
    ("::1:7500", "ambiguous"),
    ("fe80::1%eth0:7500", "ambiguous"),
    ("a:b:7500", "ambiguous"),
    ("[::1]", "port is missing"),
    ("[::1]7500", "ambiguous"),
    ("[::1", "ambiguous"),
    ("[::1]]:7500", "no IPv6 address"),
    ("[host]:7500", "no IPv6 address"),
    ("[::g]:7500", "no IPv6 address"),
    ("[fe80::1%]:7500", "no name of a network interface"),
    ("http://host:7500", "ambiguous"),
    ("ho st:7500", "no host name"),
    ("host/path:7500", "no host name"),
    ("h\x00st:7500", "no host name"),
    ("höst:7500", "no host name"),
    ("-host:7500", "no host name"),
    ("h" * 254 + ":7500", "limit is 253"),
    ("x" * 1_000_000, "1000000 characters"),
]  # fmt: skip


@given(HOSTS, PORTS)
def test_what_is_written_is_read(host: str, port: int) -> None:
    address = Address(host, port)
    assert Address.of(str(address)) == address
    assert str(Address.of(str(address))) == str(address)
    assert parse_host(host) == host
    assert host_and_port(str(address)) == {"host": host, "port": port}
    if ":" in host:
        assert parse_host(f"[{host}]") == host
        assert str(address) == f"[{host}]:{port}"


@given(st.ip_addresses(v=6), PORTS)
def test_an_ipv6_host_without_brackets_is_never_guessed(
    host: ipaddress.IPv6Address, port: int
) -> None:
    for text in (f"{host}:{port}", f"{host.exploded}:{port}", str(host)):
        with pytest.raises(InvalidArgumentError, match=r"ambiguous|port is missing"):
            parse_address(text)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_one_clear_error(text: str) -> None:
    said = ""
    try:
        found = parse_address(text, "listen")
    except InvalidArgumentError as e:
        said = e.message
    if said:
        assert said.startswith("listen is ")
        assert "it must be host:port" in said
    else:
        assert Address.of(str(found)) == found


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_is_no_address_is_refused_by_every_door(text: str, message: str) -> None:
    def node(**given: object) -> NodeConfig:
        fields: dict[str, object] = {"instance": "i", "data": Path("d"), "metadata": ["h:1"]}
        return NodeConfig(**(fields | given))  # type: ignore[arg-type]

    not_zero = "host:65536" if text == "host:0" else text  # 0 takes a free port there
    doors: list[Callable[[], object]] = [
        lambda: parse_address(text),
        lambda: parse_addresses([text, "host:1"]) if text else parse_addresses([]),
        lambda: connect(text),
        lambda: open_channel(text),
        lambda: node(listen=not_zero),
        lambda: node(advertise=text),
        lambda: node(metadata=[text]),
        lambda: node(coordinators=[text]),
        lambda: node(metrics_listen=not_zero),
        lambda: node(kafka=text),
        lambda: CoordinatorConfig(data=Path("d"), advertise=text),
        lambda: CoordinatorConfig(data=Path("d"), kafka=text),
        lambda: EtcdTarget.of(f"etcd://{text.replace('/', ' ')}"),
    ]
    for door in doors:
        with pytest.raises((InvalidArgumentError, ConfigError, pydantic.ValidationError)):
            door()
    with pytest.raises(InvalidArgumentError) as refused:
        parse_address(text)
    assert message in refused.value.message
    assert len(refused.value.message) < 400


@pytest.mark.parametrize("text", ["::1:7500", "[::1]", "host", "host:0", "", "a b:1"])
@pytest.mark.parametrize("command", [["instances"], ["read", "log"], ["append", "log", "k", "v"]])
def test_the_command_line_refuses_it_by_name(
    command: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--address", text]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: address " if text else "error: --address is empty")
    assert said.count("\n") == 1


def test_endpoints_of_etcd() -> None:
    target = EtcdTarget.of("etcd://u:p%40@[::1]:2379,10.0.0.1:2380,host:1/ns/")
    assert target == EtcdTarget(("[::1]:2379", "10.0.0.1:2380", "host:1"), "/ns", "u", "p@")


async def test_a_coordinator_an_instance_and_a_client_over_ipv6(tmp_path: Path) -> None:
    coordinator = CoordinatorServer(
        CoordinatorConfig(data=tmp_path / "c", host="[::1]", port=0, metrics_listen="[::1]:0"),
        Env(),
    )
    where = await coordinator.start()
    node = NodeServer(
        NodeConfig(
            instance="i1", data=tmp_path / "i", listen="[::1]:0", metadata=[where],
            metrics_listen="[::1]:0", stop_hand_over_s=0,
        ),
        Env(),
    )  # fmt: skip
    registered = coordinator.store.watch(
        INSTANCES, (await coordinator.store.range(INSTANCES)).revision
    )
    at = await node.start()
    try:
        async with asyncio.timeout(30):
            await anext(aiter(registered))
        for address in (where, at, coordinator.metrics_address, node.metrics_address):
            assert address.startswith("[::1]:")
            assert parse_address(address).host == "::1"
        async with connect([where, at]) as db:
            log = await db.create_log("six")
            await log.append(b"k", b"v")
            assert [r.value async for r in log.read()] == [b"v"]
    finally:
        await node.stop()
        await coordinator.stop()


class Proxy:
    """Listens like an HTTP proxy and counts who comes."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            self.asked.set()
            caller.close()

    def close(self) -> None:
        self._socket.close()


@contextmanager
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    try:
        yield made
    finally:
        made.close()


_CALL = """
import sys
from coordinator.cli.main import main
raise SystemExit(main(["log", "list", "--json", "--address", sys.argv[1]]))
"""


@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_members_are_not_proxied_unless_told(
    proxied: bool, host: str, tmp_path: Path
) -> None:
    server = CoordinatorServer(CoordinatorConfig(data=tmp_path / "c", host=host, port=0), Env())
    where = await server.start()
    try:
        with proxy() as trap:
            names = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
            environment = {
                name: value for name, value in os.environ.items()
                if name.lower() not in {*names, "no_proxy", "no_grpc_proxy"}
            }  # fmt: skip
            environment |= dict.fromkeys(names, trap.url)
            environment |= {name.upper(): trap.url for name in names}
            environment[USE_PROXY] = "1" if proxied else "0"
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", _CALL, where],
                env=environment, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert trap.asked.is_set() is proxied
            assert done.returncode == (1 if proxied else 0), done.stderr
            assert done.stdout == ("" if proxied else "[]\n")
    finally:
        await server.stop()


def test_settings_share_one_reading() -> None:
    """No field of a process's settings that is an address is plain text."""
    for config in (NodeConfig, CoordinatorConfig):
        assert issubclass(config, MetadataSettings)
        for name in ("advertise", "kafka", "metrics_listen"):
            with pytest.raises(ValueError, match="ambiguous"):
                config(
                    **{"instance": "i", "data": "d", "metadata": ["h:1"], name: "::1:7"}
                    if config is NodeConfig
                    else {"data": "d", name: "::1:7"}
                )
    for host in ("::1:7400:", "a b", "", "[::1", "h:1"):
        with pytest.raises(ValueError, match="host"):
            CoordinatorConfig(data=Path("d"), host=host)
    assert CoordinatorConfig(data=Path("d"), host="[::1]").host == "::1"
