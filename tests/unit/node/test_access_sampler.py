"""The samples of an instance: bounded in rate and memory, unbiased, found by key and time."""

import pyarrow as pa
import pytest

from logstore.node.statistics.access_sampler import AccessSampler, Wanted
from profiler.types import OpType

SECOND_US = 1_000_000


def rows(sampler: AccessSampler, wanted: Wanted) -> pa.Table:
    return pa.Table.from_batches(list(sampler.parts(wanted)) or [])


def test_every_access_of_a_quiet_instance_is_kept() -> None:
    sampler = AccessSampler("a", 1_000)
    for n in range(100):
        key = b"k%d" % (n % 10)
        sampler.take("orders/0", OpType.KEY_READ, 1, 7, 0.002, n * SECOND_US, [key], "web")
    found = rows(sampler, Wanted("orders", key=b"k3"))
    assert found["time_us"].to_pylist() == [n * SECOND_US for n in range(3, 100, 10)]
    assert set(found["weight"].to_pylist()) == {1.0}
    assert found.slice(0, 1).to_pylist()[0] | {"time_us": 0} == {
        "time_us": 0, "shard": "orders/0", "key": b"k3", "op": "key_read", "size_bytes": 7,
        "latency_us": pytest.approx(2_000.0), "weight": 1.0, "group": "web",
    }  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3, 200, 10_000])
def test_the_rate_follows_the_load_and_the_estimate_stays(batch: int) -> None:
    sampler = AccessSampler("a", 500, rows_max=8_192)
    keys = [b"%d" % n for n in range(batch)]
    total, per_s = 200_000, 20_000
    for at in range(0, total, batch):
        now_us = at * SECOND_US // per_s
        sampler.take("orders/0", OpType.APPEND, batch, 10 * batch, 0.001, now_us, keys)
    assert sampler.offered_count >= total
    assert len(sampler) <= 10 * 500 * 1.6 + 500  # ten seconds, and the first one's search
    found = rows(sampler, Wanted(""))
    assert sum(found["weight"].to_pylist()) == pytest.approx(total, rel=0.1)


def test_memory_is_bounded_and_the_past_grows_sparse() -> None:
    sampler = AccessSampler("a", 1_000, rows_max=1_024)
    for n in range(100_000):
        sampler.take("orders/0", OpType.APPEND, 1, 1, 0.0, n * 2_000, [b"k"])
        assert len(sampler) <= 1_024 + 512
    found = rows(sampler, Wanted("orders"))
    weights = found["weight"].to_pylist()
    assert sum(weights) == pytest.approx(100_000, rel=0.25)
    assert found["time_us"][0].as_py() < 100_000 * 2_000 // 4  # the first quarter is known still
    assert weights[0] > 8 * weights[-1]
    assert found["time_us"].to_pylist() == sorted(found["time_us"].to_pylist())


def test_ranges_times_and_tokens() -> None:
    sampler = AccessSampler("a", 1_000)
    for n, key in enumerate((b"a", b"b", b"c", b"d")):
        sampler.take("orders/1", OpType.SCAN, 1, 1, 0.0, n + 1, [b"12345678" + key])
        sampler.take("other/1", OpType.SCAN, 1, 1, 0.0, n + 1, [key])
        sampler.take("orders/1", OpType.SCAN, 1, 1, 0.0, n + 1, None)
    own = Wanted("orders", start=b"b", end=b"d", token_bytes=8)
    assert [key[8:] for key in rows(sampler, own)["key"].to_pylist()] == [b"b", b"c"]
    assert rows(sampler, own._replace(since_us=3))["time_us"].to_pylist() == [3]
    assert rows(sampler, Wanted("other"))["key"].to_pylist() == [b"a", b"b", b"c", b"d"]


def test_zero_keeps_nothing() -> None:
    sampler = AccessSampler("a", 0)
    sampler.take("orders/0", OpType.APPEND, 10_000, 1, 0.0, 5, [b"k"] * 10_000)
    assert len(sampler) == 0
