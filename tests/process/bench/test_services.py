"""The harness against real processes: it serves, it leaves nothing, it survives being killed."""

import base64
import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.services import ServiceError, etcd, redis
from bench.services.base import GivenService, Service
from bench.services.etcd import EtcdCluster, etcd_ready
from bench.services.kafka import KafkaCluster, kafka
from bench.services.nats import nats
from bench.services.paths import PORT_FIRST, PORT_LAST, free_ports
from bench.services.runs import RUN_VARIABLE, failed_root, sweep

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run folders of these tests are their own; fetched programs are shared with everyone's."""
    from bench.services.paths import cache_root

    shared, mine = cache_root(), tmp_path / "cache"
    mine.mkdir()
    for fetched in ("kafka", "nats"):
        (shared / fetched).mkdir(parents=True, exist_ok=True)
        (mine / fetched).symlink_to(shared / fetched)
    monkeypatch.setenv("LOGSTORE_CACHE", str(mine))
    for given in ("KAFKA", "ETCD", "NATS", "REDIS"):
        monkeypatch.delenv(f"LOGSTORE_TEST_{given}", raising=False)
    monkeypatch.setattr("bench.services.runs._shared", {})
    return mine


def marked(run_id: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(RUN_VARIABLE) == run_id:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_free_ports_are_distinct_and_below_the_ephemeral_range() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(PORT_FIRST <= port < PORT_LAST for port in ports)


def test_redis_serves_and_leaves_nothing() -> None:
    import redis as client

    service = redis(appendfsync="always")
    with service:
        host, _, port = service.address.partition(":")
        with client.Redis(host, int(port)) as connection:
            first = connection.xadd("s", {"v": b"x"})
            assert connection.xrange("s") == [(first, {b"v": b"x"})]
        member = service.members[0]  # type: ignore[attr-defined]
        pid, folder = member.pid, member.folder
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


def _etcd_call(address: str, method: str, fields: dict[str, bytes]) -> dict[str, Any]:
    body = json.dumps({k: base64.b64encode(v).decode() for k, v in fields.items()}).encode()
    request = urllib.request.Request(f"http://{address}/v3/kv/{method}", body)
    with urllib.request.urlopen(request, timeout=20) as reply:
        loaded: dict[str, Any] = json.load(reply)
        return loaded


def etcd_put(address: str, key: bytes, value: bytes) -> None:
    assert "revision" in _etcd_call(address, "put", {"key": key, "value": value})["header"]


def etcd_get(address: str, key: bytes) -> bytes:
    (found,) = _etcd_call(address, "range", {"key": key})["kvs"]
    return base64.b64decode(found["value"])


def test_three_member_etcd_survives_the_loss_of_one_member() -> None:
    with EtcdCluster(3) as service:
        assert len(service.address.split(",")) == 3
        first, *rest = service.address.split(",")
        second = rest[0]
        etcd_put(first, b"k", b"v1")
        service.kill_member(0)
        # the dead one may have led: /health says when the others have a leader again
        GivenService("the others", ",".join(rest), etcd_ready).wait_ready(30.0)
        assert etcd_get(second, b"k") == b"v1"
        etcd_put(second, b"k", b"v2")
        service.start_member(0)
        service.wait_ready()
        assert etcd_get(first, b"k") == b"v2"


def _create_topic(address: str, replicas: int) -> None:
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic("t", 1, replicas)])["t"].result(30)


def _produce_and_consume(address: str) -> list[tuple[bytes | None, bytes | None]]:
    from confluent_kafka import Consumer, Producer

    producer = Producer({"bootstrap.servers": address, "acks": "all"})
    for index in range(10):
        producer.produce("t", key=b"k%d" % index, value=b"v%d" % index)
    assert producer.flush(30) == 0
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": "g", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe(["t"])
    got: list[tuple[bytes | None, bytes | None]] = []
    for _ in range(300):
        message = consumer.poll(0.1)
        if message is not None:
            assert message.error() is None
            got.append((message.key(), message.value()))
        if len(got) == 10:
            break
    consumer.close()
    return got


def test_kafka_broker_serves_and_leaves_nothing() -> None:
    with kafka(1) as service:
        _create_topic(service.address, 1)
        got = _produce_and_consume(service.address)
        assert got == [(b"k%d" % i, b"v%d" % i) for i in range(10)]
        assert isinstance(service, KafkaCluster)
        member = service.members[0]
        pid, folder = member.pid, member.folder
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


@pytest.mark.slow
def test_three_kafka_brokers_keep_serving_without_one() -> None:
    with KafkaCluster(3, heap_mb=256) as service:
        _create_topic(service.address, 3)
        service.kill_member(2)
        alive = ",".join(service.address.split(",")[:2])
        got = _produce_and_consume(alive)
        assert len(got) == 10


async def test_nats_serves_jetstream_with_an_fsync_per_ack() -> None:
    import nats as client

    async with nats(sync_always=True) as service:
        connection = await client.connect(f"nats://{service.address}")
        stream = connection.jetstream()
        await stream.add_stream(name="S", subjects=["s.>"])
        ack = await stream.publish("s.k", b"v")
        assert ack.seq == 1
        await connection.close()


OWNER = """
import sys, time
from bench.services import etcd, redis
services = [redis(), etcd(1)]
for service in services:
    service.start()
run = services[0]._run
print(run.run_id, run.folder, *[m.pid for s in services for m in s.members], flush=True)
sys.stdin.read()
"""


def _start_owner() -> tuple[subprocess.Popen[str], str, Path, list[int]]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert owner.stdout is not None
    run_id, folder, *pids = owner.stdout.readline().split()
    return owner, run_id, Path(folder), [int(pid) for pid in pids]


def _end_owner(owner: subprocess.Popen[str]) -> None:
    owner.send_signal(signal.SIGKILL)
    owner.communicate()


def test_kill_9_of_the_owner_ends_its_services_and_removes_their_data() -> None:
    owner, run_id, folder, pids = _start_owner()
    running = [psutil.Process(pid) for pid in pids]
    guards = marked(run_id)
    assert len(running) == 2
    _end_owner(owner)
    _, alive = psutil.wait_procs([*running, *guards], timeout=20)
    assert alive == []
    assert not folder.exists()


def test_when_the_guards_die_too_the_next_start_cleans_up() -> None:
    owner, run_id, folder, pids = _start_owner()
    running = [psutil.Process(pid) for pid in pids]
    for process in marked(run_id):
        if process.pid not in pids:
            process.suspend()  # a guard that cannot act: as if it had been killed with the owner
    _end_owner(owner)
    assert all(process.is_running() for process in running)
    with redis() as service:  # starting anything sweeps first
        assert service.address
        _, alive = psutil.wait_procs(running, timeout=5)
        assert alive == []
        assert not folder.exists()
    assert marked(run_id) == []


def test_cli_up_status_down(own_cache: Path) -> None:
    def cli(*words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "bench", "services", *words, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        loaded: dict[str, Any] = json.loads(done.stdout)
        return loaded

    started = cli("up", "--kafka", "0", "--etcd", "1", "--redis")
    assert set(started["services"]) == {"etcd", "redis"}
    (run_id,) = cli("status")["runs"]
    assert len(marked(str(started["run"]))) >= 1
    assert sweep() == [], "a finished `up` is not a leftover"
    assert cli("down") == {"ended": [run_id]}
    assert marked(run_id) == []
    assert cli("status") == {"runs": {}}
    assert list((own_cache / "services" / "runs").iterdir()) == []


def test_an_up_that_was_killed_half_way_is_a_leftover() -> None:
    command = [sys.executable, "-m", "bench", "services", "up", "--kafka", "1", "--etcd", "1"]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    from bench.services.runs import runs_root

    for _ in range(2_000):
        folders = list(runs_root().glob("*/kafka*")) if runs_root().is_dir() else []
        if folders or started.poll() is not None:
            break
        psutil.cpu_percent(0.01)
    assert folders
    run_id = folders[0].parent.name
    started.kill()
    started.communicate()
    assert run_id in sweep()
    assert marked(run_id) == []


def test_a_service_that_cannot_start_says_why_and_keeps_its_log() -> None:
    class Broken(EtcdCluster):
        def _build(self, run):  # type: ignore[no-untyped-def]
            (member,) = super()._build(run)
            member.command.append("--no-such-flag")
            return [member]

    with pytest.raises(ServiceError, match="no-such-flag"):
        Broken(1).start()
    logs = list(failed_root().glob("*/*.log"))
    assert len(logs) == 1
    assert b"no-such-flag" in logs[0].read_bytes()


def test_an_address_given_is_used_and_never_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    with EtcdCluster(1) as real:
        monkeypatch.setenv("LOGSTORE_TEST_ETCD", real.address)
        given: Service = etcd(3)
        with given:
            assert given.address == real.address
        given.wipe()
        real.wait_ready(2.0)
    with pytest.raises(ServiceError, match="does not answer"):
        given.wait_ready(0.2)


def test_a_size_that_makes_no_quorum_is_refused() -> None:
    with pytest.raises(ServiceError, match="members is 2"):
        EtcdCluster(2)
    with pytest.raises(ServiceError, match="brokers is 2"):
        KafkaCluster(2)


def test_changed_jars_are_noticed(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.services.kafka import _sums_hold, kafka_version
    from bench.services.paths import cache_root

    real = (cache_root() / "kafka" / kafka_version()).resolve()
    if not list(real.glob("*.jar")):
        from bench.services.kafka import kafka_jars

        kafka_jars()
    assert _sums_hold(real)
    copy = own_cache / "copy"
    copy.mkdir()
    for jar in real.glob("*.jar"):
        (copy / jar.name).symlink_to(jar)
    victim = next(copy.glob("*.jar"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.unlink()
    victim.write_bytes(content)
    assert not _sums_hold(copy)
