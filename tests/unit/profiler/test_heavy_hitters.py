"""Heavy hitters, layers and merges of heatmaps, replay of an access log."""

from functools import partial

import numpy as np
import pytest

from profiler import AccessHeatmap, AccessLog, HeavyHitters, LayeredHeatmap, OpType


def zipf(n: int, seed: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).zipf(1.2, n).astype(np.uint64)


def key_of(batch: np.ndarray, i: int) -> int:
    return int(batch[i])


def test_the_heaviest_keys_are_found_and_never_counted_short() -> None:
    drawn, found = zipf(200_000), HeavyHitters(128)
    for batch in np.array_split(drawn, 200):
        found.add(batch, name=partial(key_of, batch))
    keys, counts = np.unique(drawn, return_counts=True)
    true = dict(zip(keys.tolist(), counts.tolist(), strict=True))
    heavy = sorted(true, key=lambda key: -true[key])[:50]
    top = dict(found.top(50))
    assert len(set(heavy) & set(top)) >= 48
    for key, estimate in top.items():
        assert true[key] <= estimate <= true[key] + 3 * len(drawn) / found.width
    assert found.total == len(drawn)


def test_sketches_merge_and_fade() -> None:
    drawn = zipf(40_000)
    whole, one, other = HeavyHitters(64), HeavyHitters(64), HeavyHitters(64)
    whole.add(drawn)
    one.add(drawn[:20_000])
    other.add(drawn[20_000:])
    one.merge(other)
    assert one.top(20) == whole.top(20)
    faded = HeavyHitters(8, fade=0.5)
    faded.add(np.full(100, 7, dtype=np.uint64))
    faded.tick()
    assert faded.top(1) == [(7, 50.0)]
    with pytest.raises(ValueError, match="width is 1024"):
        whole.merge(HeavyHitters(64, 1024))
    with pytest.raises(ValueError, match="power of two"):
        HeavyHitters(8, 1000)


def test_heatmaps_of_two_instances_add_up() -> None:
    rng = np.random.default_rng(3)
    whole, one, other = (AccessHeatmap(32, 24) for _ in range(3))
    for slot in range(20):
        keys = [b"key-%06d" % k for k in rng.zipf(1.3, 400).clip(max=5000)]
        whole.add(keys, None, slot)
        one.add(keys[:150], None, slot)
        other.add(keys[150:], None, slot)
    one.merge(other)
    starts, slots, counts = one.grid()
    assert len(starts) <= 32
    assert starts == sorted(set(starts))
    assert counts.sum(axis=1)[-20:] == pytest.approx([400.0] * 20)
    assert slots[-1] == 19
    assert one.recent_load() == pytest.approx(whole.recent_load())
    assert one.hottest(3)[0][0] == whole.hottest(3)[0][0] == b"key-000001"
    with pytest.raises(ValueError, match="slots_max is 7"):
        one.merge(AccessHeatmap(32, 7))


def test_layers_keep_reads_writes_and_bytes_apart_at_each_resolution() -> None:
    layers, more = LayeredHeatmap((1.0, 60.0)), LayeredHeatmap((1.0, 60.0))
    for second in range(120):
        layers.add(OpType.APPEND, [b"w"], [2.0], [100.0], float(second))
        more.add(OpType.KEY_READ, [b"r"], [3.0], [50.0], float(second))
    layers.merge(more)
    minutes = layers.at(60.0, "writes").grid()
    assert minutes[2].sum(axis=1)[-2:] == pytest.approx([120.0, 120.0])
    assert layers.at(1.0, "reads").grid()[2].sum(axis=1)[-1] == pytest.approx(3.0)
    assert layers.at(60.0, "bytes").grid()[2].sum(axis=1)[-2:] == pytest.approx([9000.0] * 2)
    with pytest.raises(ValueError, match="resolution_s, layer"):
        layers.at(5.0, "reads")


def test_a_recorded_stream_is_replayed_into_the_log() -> None:
    log = AccessLog(16, np.random.default_rng(1))
    log.replay(
        np.array([0.5, 1.0, 1.5]),
        np.array([1, 2, 1], dtype=np.uint64),
        np.array(["append", "KEY_READ", "append"]),
        np.array([10, 20, 30]),
    )
    rows = log.rows()
    assert sorted(rows["time_us"].tolist()) == [500_000, 1_000_000, 1_500_000]
    assert rows["size_bytes"].sum() == 60
    with pytest.raises(ValueError, match="op is 'put'"):
        log.replay(
            np.array([1.0]), np.array([1], dtype=np.uint64), np.array(["put"]), np.array([1])
        )
