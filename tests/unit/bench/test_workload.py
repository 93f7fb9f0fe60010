"""The loads do what their names say, and the same seed gives the same load."""

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import pytest

from bench.workload import (
    NAMED,
    Accesses,
    digest_rows,
    generate,
    key_names,
    keys,
    make_records,
    named,
    open_loop,
    rates,
    read_csv,
    write_csv,
)
from bench.workload.flights import flight_accesses
from bench.workload.open_loop import even_schedule, histogram
from bench.workload.records import digest_bytes
from coordinator.local.flights import flight_events
from logstore.base.errors import InvalidArgumentError


def joined(batches: list[Accesses]) -> Accesses:
    return Accesses(
        np.concatenate([b.time_s for b in batches]),
        np.concatenate([b.key for b in batches]),
        np.concatenate([b.op for b in batches]),
        np.concatenate([b.size for b in batches]),
    )


@pytest.mark.parametrize("name", sorted(NAMED))
def test_named_loads_are_ordered_seeded_and_near_their_rate(name: str) -> None:
    def make(seed: int) -> Accesses:
        options = {"rate_per_s": 500.0, "duration_s": 40.0}
        return joined(list(named(name, key_count=1_000, seed=seed, **options)))

    first, again, other = make(7), make(7), make(8)
    assert np.array_equal(first.time_s, again.time_s)
    assert np.array_equal(first.key, again.key)
    assert len(first) != len(other) or not np.array_equal(first.time_s, other.time_s)
    assert (np.diff(first.time_s) >= 0).all()
    assert first.time_s[-1] < 40.0
    assert 2_000 < len(first) < 100_000  # a random walk wanders by its nature


def test_an_unknown_load_and_a_bad_duration_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown"):
        named("nope", rate_per_s=1, duration_s=1, key_count=1, seed=0)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="above 0"):
        next(generate(rates.constant(1), keys.uniform(1), duration_s=0, rng=rng))


def test_zipf_follows_its_law() -> None:
    rng = np.random.default_rng(1)
    drawn = keys.zipf(100, exponent=1.0)(np.zeros(200_000), rng)
    share = np.bincount(drawn, minlength=100) / len(drawn)
    expected = (1 / np.arange(1, 101)) / (1 / np.arange(1, 101)).sum()
    assert np.abs(share - expected).max() < 0.005


def test_the_hot_spot_moves_once_around() -> None:
    rng = np.random.default_rng(1)
    spot = keys.moving_hot_spot(1_000, width=10, lap_s=100.0, hot_share=1.0)
    for at in (0.0, 25.0, 99.0):
        drawn = spot(np.full(500, at), rng)
        assert drawn.min() >= at * 10
        assert drawn.max() < at * 10 + 10


def test_rate_curves_have_their_shape() -> None:
    t = np.array([0.0, 40.0, 50.0, 90.0])
    crowd = rates.flash_crowd(10, at_s=40, factor=5, rise_s=10, decay_s=10)(t)
    assert crowd[:2] == pytest.approx([10, 10])
    assert crowd[2] == pytest.approx(50)
    assert 10 < crowd[3] < 12
    assert rates.level_shift(1, 3, at_s=45)(t).tolist() == [1, 1, 3, 3]
    day = rates.seasonal(10, period_s=200, swing=0.5)(t)
    assert day[0] == pytest.approx(10)
    assert day[2] == pytest.approx(15)


def test_planted_groups_are_asked_for_together() -> None:
    rng = np.random.default_rng(3)
    drawn = keys.co_access(400, group_size=4, follow=0.9)(np.zeros(20_000), rng)
    group = drawn % 100
    together = (group[1:] == group[:-1]).mean()
    assert together > 0.88
    assert len(np.unique(drawn // 100)) == 4


def test_key_names_sort_as_their_numbers() -> None:
    names = key_names([5, 123_456_789_012, 40])
    assert names.tolist() == [b"key-000000000005", b"key-123456789012", b"key-000000000040"]
    with pytest.raises(ValueError, match="key numbers"):
        key_names([-1])


def test_any_csv_is_a_load(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    load = generate(
        rates.constant(100),
        keys.uniform(10),
        duration_s=2.0,
        rng=rng,
        step_s=2.0,
        read_share=0.5,
        size_spread=0.5,
    )
    written = next(load)
    write_csv(written, tmp_path / "load.csv")
    back = read_csv(tmp_path / "load.csv")
    assert np.allclose(back.time_s, written.time_s)
    assert back.key.tolist() == written.key.tolist()
    assert back.op.tolist() == written.op.tolist()
    assert set(back.op.tolist()) == {0, 1}
    assert back.size.tolist() == written.size.tolist()
    (tmp_path / "bad.csv").write_text("time_s,key,op,size\n1.0,a,scan,5\n")
    with pytest.raises(ValueError, match="op must be"):
        read_csv(tmp_path / "bad.csv")


def test_flights_are_ordered_keyed_and_complete() -> None:
    began = time.perf_counter()
    events = flight_events()
    seconds = time.perf_counter() - began
    assert events.num_rows == 336_776
    assert seconds < 20, "the demo waits for this"
    at = events["event_time_us"].to_numpy()
    assert (np.diff(at) >= 0).all()
    row = json.loads(events["value"][0].as_py())
    key = f"{row['origin']}/{row['carrier']}/{row['flight']}".encode()
    assert events["key"][0].as_py() == key
    assert row["year"] == 2013
    assert at[0] == np.datetime64("2013-01-01T10:15", "us").astype(np.int64)
    parsed = [json.loads(v.as_py()) for v in events["value"][::5_000]]
    assert any(r["dep_time"] is None for r in map(json.loads, _cancelled(events)))
    assert all(set(r) == set(row) for r in parsed)


def _cancelled(events) -> list[bytes]:  # type: ignore[no-untyped-def]
    import pyarrow.compute as pc

    hit = pc.match_substring(pc.cast(events["value"], "string"), '"dep_time":null')
    found = events.filter(hit)["value"].slice(0, 3).to_pylist()
    assert len(found) == 3
    return list(found)


def test_flights_by_month_and_as_accesses() -> None:
    one = flight_accesses([2], speed_up=3_600)
    assert len(one) == 24_951
    assert one.time_s[0] == 0
    assert one.time_s[-1] < 28 * 24
    with pytest.raises(InvalidArgumentError, match="months"):
        flight_events([13])


def test_records_are_distinct_and_their_digest_sees_every_change() -> None:
    records = make_records(5_000, record_bytes=100, seed=4)
    assert records.record_bytes == 100
    assert len(set(records.key_list())) == len(set(records.value_list())) == 5_000
    key_array, value_array = records.arrow()
    assert key_array.to_pylist() == records.key_list()
    assert value_array.to_pylist() == records.value_list()
    rows = np.hstack([records.keys, records.values])
    whole = records.digest()
    assert digest_rows(rows[::-1].copy()) == whole
    assert digest_bytes(rows.tobytes(), 100) == whole
    assert digest_rows(rows[:-1]) != whole
    swapped = rows.copy()
    swapped[0], swapped[1] = rows[1], rows[1]
    assert digest_rows(swapped) != whole
    damaged = rows.copy()
    damaged[77, 50] ^= 1
    assert digest_rows(damaged) != whole
    with pytest.raises(ValueError, match="whole number"):
        digest_bytes(b"x" * 150, 100)


async def test_open_loop_counts_a_stall_for_all_who_waited() -> None:
    """The system stops for 200 ms. A closed loop would see one slow request; here every request
    that was due in the stall is late by what was left of it."""
    gate = asyncio.Event()
    gate.set()

    async def send(start: int, stop: int) -> None:
        if start == 100:
            gate.clear()
            asyncio.get_running_loop().call_later(0.2, gate.set)
        await gate.wait()

    result = await open_loop(send, even_schedule(1_000, 0.6))
    assert result.sent == 600
    assert result.failed == 0
    slow = sum(
        item.count_at_value_iterated_to
        for item in result.latency.get_recorded_iterator()
        if item.value_iterated_to >= 100_000
    )
    assert 60 <= slow <= 220
    assert result.longest_gap_s >= 0.15


async def test_open_loop_batches_fail_without_stopping() -> None:
    seen: list[tuple[int, int]] = []

    async def send(start: int, stop: int) -> None:
        seen.append((start, stop))
        if start <= 50 < stop:
            raise RuntimeError("refused")

    result = await open_loop(send, even_schedule(10_000, 0.05), batch_max=64)
    assert sorted(i for a, b in seen for i in range(a, b)) == list(range(500))
    assert 1 <= result.failed <= 64
    assert result.latency.get_total_count() == 500 - result.failed


async def test_open_loop_lingers_for_fuller_calls_and_counts_the_wait() -> None:
    sizes: list[int] = []

    async def send(start: int, stop: int) -> None:
        sizes.append(stop - start)

    result = await open_loop(send, even_schedule(10_000, 0.2), batch_max=500, linger_s=0.02)
    assert sum(sizes) == 2_000
    assert len(sizes) <= 12
    assert max(sizes) <= 500
    assert result.percentile_ms(99) >= 15


def test_histogram_keeps_counts_and_percentiles() -> None:
    made = histogram(np.linspace(0.001, 0.1, 1_000))
    assert made.get_total_count() == 1_000
    assert made.get_value_at_percentile(50) == pytest.approx(50_500, rel=0.01)
