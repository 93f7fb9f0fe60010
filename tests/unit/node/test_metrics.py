"""What an instance shows over HTTP: counts that add up, bounded names, health, bad addresses."""

import asyncio
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from logstore.base.errors import AddressInUseError, ConfigError, FencedError, UnavailableError
from logstore.base.observe import Endpoint
from logstore.proto.v1 import log_pb2
from tests.support.nodes import append, batch_of, nodes

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def fetch(address: str, path: str) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            with e:
                return e.code, e.read().decode()

    return await asyncio.to_thread(get)


async def scrape(address: str) -> Samples:
    status, text = await fetch(address, "/metrics")
    assert status == 200
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def labels(**given: str) -> frozenset[tuple[str, str]]:
    return frozenset(given.items())


async def test_counts_and_copies_are_shown(tmp_path: Path) -> None:
    async with nodes(tmp_path, 0) as n:
        server = await n.start("i1", metrics_listen="127.0.0.1:0")
        await n.create("orders/0", "i1")
        await n.until("orders/0", lambda r: r.epoch == 2)
        stub = n.log_stub("i1")
        await append(stub, [batch_of("orders/0", [b"a", b"b", b"c"], i, 5, i) for i in (1, 2)])
        await append(stub, [batch_of("orders/0", [b"a", b"b", b"c"], 2, 5, 2)])  # a duplicate
        _ = [r async for r in stub.Read(log_pb2.ReadRequest(shard="orders/0", key=b"a"))]
        seen = await scrape(server.metrics_address)
        assert seen["logstore_operations_total", labels(op="append")] == 6
        assert seen["logstore_operations_total", labels(op="key_read")] == 1
        took = "logstore_operation_duration_seconds"
        assert seen[f"{took}_bucket", labels(op="append", le="+Inf")] == 6
        assert seen[f"{took}_count", labels(op="append")] == 6
        assert 0 < seen[f"{took}_sum", labels(op="append")] < 60
        shard = labels(shard="orders/0", role="primary")
        assert seen["logstore_shard_log_end_records", shard] == 6
        assert seen["logstore_shard_high_watermark_records", shard] == 6
        assert seen["logstore_shard_commit_age_seconds", shard] == 0
        assert seen["logstore_copies", labels(role="primary")] == 1
        assert seen["logstore_under_replicated_shards", labels()] == 0
        size, free = (seen[f"logstore_disk_{n}_bytes", labels()] for n in ("size", "free"))
        assert 0 < free < size
        assert seen["logstore_writes_stopped", labels()] == 0
        assert await fetch(server.metrics_address, "/healthz") == (200, "ok\n")
        assert await fetch(server.metrics_address, "/readyz") == (200, "ready\n")
        status, text = await fetch(server.metrics_address, "/other")
        assert (status, text) == (404, "there are /metrics, /healthz and /readyz\n")


async def test_failures_and_missing_copies(tmp_path: Path) -> None:
    """Two copies are wanted and needed, one is there: appends fail, and the metric shows it."""
    async with nodes(tmp_path, 0) as n:
        server = await n.start("i1", metrics_listen="127.0.0.1:0")
        await n.create("orders/0", "i1", replicas=2)
        await n.until("orders/0", lambda r: r.epoch == 2)
        agent = server.instance.node.reporter
        agent.failed("orders/0", False, UnavailableError("no"), 3)
        agent.failed("orders/0", False, FencedError("elsewhere"))  # is not this instance's fault
        agent.failed("orders/0", False, ValueError("a bug"))
        seen = await scrape(server.metrics_address)
    name = "logstore_failed_operations_total"
    assert {of: v for (n_, of), v in seen.items() if n_ == name} == {
        labels(code="unavailable"): 3,
        labels(code="internal"): 1,
    }
    assert seen["logstore_under_replicated_shards", labels()] == 1


async def test_shards_beyond_the_bound_are_summed_up(tmp_path: Path) -> None:
    async with nodes(tmp_path, 0) as n:
        server = await n.start("i1", metrics_listen="127.0.0.1:0", metrics_shards_max=1)
        for number in range(3):
            shard = f"log{number}/{number}"
            await n.create(shard, "i1")
            await n.until(shard, lambda r: r.epoch == 2)
            keys = [b"a"] * (number + 1)
            (result,) = await append(n.log_stub("i1"), [batch_of(shard, keys, 1, 5, 1)])
            assert not result.HasField("error"), result.error
        seen = await scrape(server.metrics_address)
        ends = {
            dict(of)["shard"]: value
            for (name, of), value in seen.items()
            if name == "logstore_shard_log_end_records"
        }
        assert ends == {"log0/0": 1, "other": 5}


async def test_a_process_that_cannot_work_says_why() -> None:
    door = Endpoint([], lambda: "the metadata has not been read yet")
    address = door.start("127.0.0.1:0")
    try:
        status, text = await fetch(address, "/readyz")
        assert (status, text) == (503, "the metadata has not been read yet\n")
        with pytest.raises(AddressInUseError, match=address):
            Endpoint([], lambda: None).start(address)
    finally:
        await door.stop()


@pytest.mark.parametrize("given", ["nowhere", "host:", "127.0.0.1:70000", "127.0.0.1:http"])
async def test_a_bad_address_is_refused_by_name(given: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics_listen is .*must be host:port"):
        Endpoint([], lambda: None).start(given)
