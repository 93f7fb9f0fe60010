"""The heatmap: exact totals, bounded memory, cuts that halve the load."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.heatmap import KEYS_PER_BUCKET, AccessHeatmap, separator, strip_of
from profiler.heatmap_png import render_png
from profiler.key_sample import KEY_BYTES_MAX


def share_left(
    keys: list[bytes], cut: bytes, start: bytes = b"", end: bytes = b"\xff" * 9
) -> float:
    inside = [key for key in keys if start <= key < end]
    return sum(key < cut for key in inside) / len(inside)


@pytest.mark.parametrize("shape", ["uniform", "bell", "two clusters", "sorted arrivals"])
def test_split_key_halves_the_load_of_any_range(shape: str) -> None:
    generator = np.random.default_rng(4)
    heatmap, seen = AccessHeatmap(half_life_slots=1e9), []
    for slot in range(10):
        if shape == "uniform":
            drawn = generator.integers(0, 10**9, 3000)
        elif shape == "bell":
            drawn = generator.normal(5e8, 1e6, 3000).astype(int)
        elif shape == "two clusters":
            centre = generator.choice([1e8, 9e8], 3000, p=[0.8, 0.2])
            drawn = (centre + generator.integers(0, 1000, 3000)).astype(int)
        else:
            drawn = np.sort(generator.integers(0, 10**9, 3000))
        keys = [b"user/%010d" % number for number in drawn.tolist()]
        heatmap.add(keys, None, slot)
        seen += keys
    middle = heatmap.split_key(b"", None)
    assert middle is not None
    assert share_left(seen, middle) == pytest.approx(0.5, abs=0.04)
    quarter = heatmap.split_key(b"", middle)
    assert quarter is not None
    assert b"" < quarter < middle
    assert share_left(seen, quarter, end=middle) == pytest.approx(0.5, abs=0.08)


def test_memory_is_bounded_whatever_the_number_of_keys() -> None:
    generator = np.random.default_rng(5)
    heatmap = AccessHeatmap(buckets_max=32, slots_max=10)
    for slot in range(50):
        keys = [key.tobytes() * 60 for key in generator.integers(0, 2**63, 1000)]
        heatmap.add(keys, None, slot)
    starts, slots, counts = heatmap.grid()
    assert len(starts) <= 32
    assert counts.shape == (10, len(starts))
    assert slots == list(range(40, 50))
    assert counts.sum(axis=1).tolist() == pytest.approx([1000.0] * 10)
    held = [key for keys in heatmap._keys for key in keys]
    assert len(held) <= 32 * KEYS_PER_BUCKET
    assert max(len(key) for key in [*held, *starts]) <= KEY_BYTES_MAX


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.binary(max_size=4), st.integers(1, 9)), max_size=300
    ).map(lambda rows: sorted(rows, key=lambda row: row[0]))
)
def test_totals_are_exact_and_buckets_ordered(rows: list[tuple[int, bytes, int]]) -> None:
    heatmap = AccessHeatmap(buckets_max=8, slots_max=20)
    expected = dict.fromkeys(range(13), 0)
    for slot, key, weight in rows:
        heatmap.add_samples([(key, weight)], slot)
        expected[slot] += weight
    starts, slots, counts = heatmap.grid()
    assert starts == sorted(set(starts))
    assert starts[0] == b""
    assert len(starts) <= 8
    assert (counts >= 0).all()
    answer = dict(zip(slots, counts.sum(axis=1).tolist(), strict=True))
    for slot, total in expected.items():
        assert answer.get(slot, 0.0) == pytest.approx(total)
    cut = heatmap.split_key(b"", None)
    distinct = {key for _, key, _ in rows}
    assert (cut is None) == (len(distinct) < 2)


def test_a_hot_key_is_named_and_cut_beside() -> None:
    generator = np.random.default_rng(6)
    heatmap = AccessHeatmap()
    for slot in range(5):
        cold = [b"k%06d" % i for i in generator.integers(0, 10**6, 2000).tolist()]
        heatmap.add([*cold, *[b"k500000"] * 3000], None, slot)
    (key, share), *_ = heatmap.hottest(3)
    assert key == b"k500000"
    assert share == pytest.approx(0.6, abs=0.02)
    assert heatmap.split_key(b"k500000", b"k500000\x00") is None
    cut = heatmap.split_key(b"", None)
    assert cut is not None
    assert b"k49" < cut <= b"k501"


def test_old_load_fades_and_the_split_follows() -> None:
    heatmap = AccessHeatmap(half_life_slots=2)
    heatmap.add([b"a%03d" % i for i in range(1000)], None, 0)
    heatmap.add([b"z%03d" % i for i in range(1000)], None, 40)
    cut = heatmap.split_key(b"", None)
    assert cut is not None
    assert cut.startswith(b"z")
    assert heatmap.recent_load(b"", b"b") < 0.01 * heatmap.recent_load(b"z", None)


def test_a_slot_before_the_window_is_dropped_and_counted() -> None:
    heatmap = AccessHeatmap(slots_max=5)
    heatmap.add([b"a"], [2.0], 100)
    heatmap.add([b"a"], [3.0], 96)
    heatmap.add([b"a"], [7.0], 95)
    assert heatmap.dropped_weight == 7.0
    assert heatmap.grid()[2].sum() == 5.0


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_separator_is_between_and_short(a: bytes, b: bytes) -> None:
    left, right = sorted((a, b))
    if left == right:
        with pytest.raises(ValueError, match="less than"):
            separator(left, right)
        return
    cut = separator(left, right)
    assert left < cut <= right
    assert len(cut) <= len(left) + 1


def test_strip_json_and_png() -> None:
    assert strip_of([0, 1, 4, 8], 4) == " ▁▄█"
    assert strip_of([0, 0], 3) == "   "
    assert len(strip_of(np.arange(1000), 64)) == 64
    heatmap = AccessHeatmap(slots_max=3)
    heatmap.add([b"a", b"\xff\x00"] * 500, None, 7)
    answer = json.loads(json.dumps(heatmap.to_json()))
    assert answer["slots"] == [5, 6, 7]
    assert sum(answer["counts"][-1]) == 1000
    assert len(heatmap.strip(20)) == 20
    assert heatmap.strip(4, slot=6) == "    "
    assert render_png(heatmap, "t").startswith(b"\x89PNG")
