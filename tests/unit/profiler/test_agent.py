"""The agent: exact counts by slot, late data, percentiles, unbiased and bounded samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.access_log import AccessLog
from profiler.agent import ZERO_RUN_SLOTS_MAX, Agent
from profiler.histogram import RELATIVE_ERROR_MAX, LatencyHistogram
from profiler.key_sample import KEY_BYTES_MAX, KeySample
from profiler.types import Capacity, OpType

PERIOD_US = 1_000_000


def make_agent(seed: int = 1, **options: int) -> Agent:
    return Agent("a", PERIOD_US, np.random.default_rng(seed), **options)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["s", "t"]),
            st.sampled_from(list(OpType)),
            st.lists(st.integers(0, 20 * PERIOD_US - 1), min_size=1, max_size=50),
        ),
        max_size=20,
    )
)
def test_counts_by_slot_are_exact(batches: list[tuple[str, OpType, list[int]]]) -> None:
    agent = make_agent()
    expected: dict[tuple[str, int, OpType], int] = {}
    for shard, op, times in batches:
        agent.record(shard, op, len(times), 10 * len(times), 0.001, 0, np.array(times))
        for time in times:
            at = (shard, time // PERIOD_US, op)
            expected[at] = expected.get(at, 0) + 1
    found = agent.drain(19)
    counted = {(s.shard, s.slot, op): n for s in found for op, n in s.counts.items() if n}
    assert counted == expected
    total = sum(len(times) for _, _, times in batches)
    assert sum(s.query_count for s in found) == total
    assert sum(s.bytes_in + s.bytes_out for s in found) == pytest.approx(10 * total, abs=len(found))
    assert len({(s.shard, s.slot) for s in found}) == len(found)
    assert agent.late_count == 0


def test_late_records_are_counted_in_the_open_slot() -> None:
    agent = make_agent()
    agent.record("s", OpType.APPEND, 3, 300, 0.001, 2 * PERIOD_US)
    assert [s.query_count for s in agent.drain(2)] == [3]
    times = np.array([1 * PERIOD_US, 2 * PERIOD_US, 3 * PERIOD_US, 4 * PERIOD_US])
    agent.record("s", OpType.APPEND, 4, 400, 0.001, 0, times)
    found = agent.drain(4)
    assert [(s.slot, s.query_count, s.late_count) for s in found] == [(3, 3, 2), (4, 1, 0)]
    assert agent.late_count == 2


def test_silence_is_told_as_zeros_but_not_for_ever() -> None:
    agent = make_agent()
    agent.record("s", OpType.SCAN, 1, 50, 0.002, 5 * PERIOD_US)
    assert [(s.slot, s.query_count) for s in agent.drain(8)] == [(5, 1), (6, 0), (7, 0), (8, 0)]
    assert [s.slot for s in agent.drain(9)] == [9]
    far = 10 + 2 * ZERO_RUN_SLOTS_MAX
    assert [s.slot for s in agent.drain(far)] == [far]
    agent.forget("s")
    assert agent.drain(far + 1) == []


def test_bytes_latency_weight_and_rate() -> None:
    agent = make_agent()
    agent.track("s", 2.5)
    agent.record("s", OpType.APPEND, 90, 900, 0.001, 0)
    agent.record("s", OpType.KEY_READ, 10, 50, 0.100, 0)
    (found,) = agent.drain(0)
    assert (found.bytes_in, found.bytes_out, found.query_count) == (900, 50, 100)
    assert found.migration_weight == 2.5
    assert found.queries_per_s == 100.0
    assert found.mean_ms == pytest.approx(0.9 * 1 + 0.1 * 100)
    assert found.p50_ms == pytest.approx(1.0, rel=RELATIVE_ERROR_MAX)
    assert found.p99_ms == pytest.approx(100.0, rel=RELATIVE_ERROR_MAX)


def test_shards_and_open_slots_are_bounded() -> None:
    agent = make_agent(shards_max=2, open_slots_max=5)
    for shard in ("a", "b", "c"):
        agent.record(shard, OpType.APPEND, 1, 1, 0.001, 0)
    assert agent.refused_count == 1
    with pytest.raises(ValueError, match="the limit is 2"):
        agent.track("d")
    agent.record("a", OpType.APPEND, 50, 50, 0.001, 0, np.arange(50) * PERIOD_US)
    assert agent.folded_count > 0
    assert sum(s.query_count for s in agent.drain(60) if s.shard == "a") == 51


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(2e-6, 90.0), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99]))
def test_percentile_error_is_bounded(latencies: list[float], share: float) -> None:
    one, many = LatencyHistogram(), LatencyHistogram()
    for latency in latencies:
        one.add(latency, 1)
    many.add_array(np.array(latencies))
    exact = sorted(latencies)[max(0, int(np.ceil(share * len(latencies))) - 1)]
    for histogram in (one, many):
        # A value on a bucket's edge may count as the neighbour's middle: a whole bucket's width.
        answer = histogram.percentile_s(share)
        assert abs(np.log(answer / exact)) <= np.log(1 + RELATIVE_ERROR_MAX) * 1.001


def test_sampled_keys_are_unbiased_and_bounded() -> None:
    agent = make_agent(keys_per_slot=200)
    keys = [b"hot"] * 500 + [b"k%03d" % i for i in range(500)]
    for _ in range(400):
        agent.record("s", OpType.APPEND, 1000, 1000, 0.001, 0, None, keys)
    (found,) = agent.drain(0)
    answer = dict(found.sampled_keys)
    assert len(answer) <= 200
    assert sum(answer.values()) == pytest.approx(400_000, rel=0.35)
    assert answer[b"hot"] / sum(answer.values()) == pytest.approx(0.5, abs=0.15)
    assert found.sampled_keys[0][0] == b"hot"


def test_sample_estimate_is_right_on_average() -> None:
    totals = []
    for seed in range(60):
        sample, generator = KeySample(64), np.random.default_rng(seed)
        for _ in range(100):
            sample.add([b"a", b"b"], 5.0, generator)
        assert len(sample) <= 64
        totals.append(sum(weight for _, weight in sample.counts()))
    assert np.mean(totals) == pytest.approx(1000.0, rel=0.1)


def test_keys_of_an_event_time_batch_go_to_their_slots() -> None:
    agent = make_agent()
    times = np.array([0, PERIOD_US, 2 * PERIOD_US])
    agent.record("s", OpType.APPEND, 3, 3, 0.001, 0, times, [b"x", b"y", b"z" * 1000])
    found = agent.drain(2)
    assert [s.sampled_keys for s in found] == [
        ((b"x", 1.0),),
        ((b"y", 1.0),),
        ((b"z" * KEY_BYTES_MAX, 1.0),),
    ]


def test_access_log_keeps_the_newest_and_samples_at_its_rate() -> None:
    log = AccessLog(1_000, np.random.default_rng(1))
    for start in range(0, 2_500, 100):
        times = np.arange(start, start + 100)
        log.record_batch(OpType.SCAN, times, times.astype(np.uint64), 7, 0.002)
    assert log.rows()["time_us"].tolist() == list(range(1_500, 2_500))
    assert log.rows(2_400)["key_hash"].tolist() == list(range(2_400, 2_500))
    thin = AccessLog(100_000, np.random.default_rng(1), rate=0.1)
    thin.record_batch(OpType.APPEND, np.arange(50_000), np.arange(50_000, dtype=np.uint64), 1, 0.0)
    assert thin.rows()["weight"].sum() == pytest.approx(50_000, rel=0.05)
    assert thin.offered_count == 50_000


def test_bad_input_names_field_value_and_limit() -> None:
    with pytest.raises(ValueError, match="period_us is 0"):
        Agent("a", 0, np.random.default_rng(1))
    with pytest.raises(ValueError, match="ops_per_s is 0"):
        Capacity(ops_per_s=0)
    with pytest.raises(ValueError, match="rate is 2"):
        AccessLog(10, np.random.default_rng(1), rate=2)
