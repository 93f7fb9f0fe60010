"""Present loads: differences of running totals, by copy, whatever reports are lost or late."""

import pytest

from coordinator.statistics.present import MINUTE_S, PresentLoads
from coordinator.statistics.reports import decode_totals
from coordinator.statistics.slot_loads import SlotLoads
from logstore.node.statistics.totals_sent import TOTALS_MAX, TotalsSent
from profiler.running import RunningTotals, ShardTotals
from profiler.types import OpType
from tests.support.statistics import intake, statistic

SHARD = "x/0"


class Copies:
    """Instances that serve copies, each with its running totals, and the coordinator."""

    def __init__(self, *names: str) -> None:
        self.now_s = 100.0
        self.running = {name: RunningTotals() for name in names}
        self.sent = {
            name: TotalsSent(r, lambda _: None, lambda *_: ()) for name, r in self.running.items()
        }
        self.present = PresentLoads()

    def append(self, name: str, count: int, latency_s: float = 0.002, retried: int = 0) -> None:
        self.running[name].served(
            SHARD, OpType.APPEND, count, 100 * count, latency_s, self.now_s, retried
        )

    def report(self, *names: str, after_s: float = 1.0) -> None:
        self.now_s += after_s
        for name in names or self.running:
            self.present.take(name, 1, self.sent[name].take("c", self.now_s), self.now_s)


def test_the_load_of_a_new_copy_is_known_from_its_first_report_on() -> None:
    seen = Copies("a")
    seen.append("a", 50)
    seen.report()
    load = seen.present.load(SHARD, seen.now_s)
    assert load is not None
    assert load.whole.admitted_per_s == pytest.approx(50.0)
    assert load.whole.bytes_in_per_s == pytest.approx(5_000.0)
    assert (load.whole.mean_ms, load.whole.p99_ms) == pytest.approx((2.0, 2.0), rel=0.05)


def test_a_steady_rate_is_right_over_any_time() -> None:
    seen = Copies("a")
    for _ in range(200):
        seen.append("a", 30)
        seen.report()
        for over_s in (5.0, 10.0, MINUTE_S):
            load = seen.present.load(SHARD, seen.now_s, over_s)
            assert load is not None
            assert load.whole.admitted_per_s == pytest.approx(30.0)
    assert len(seen.present._instances["a"].copies[SHARD].points) <= 15


def test_a_copy_that_rests_reports_nothing_and_its_load_falls() -> None:
    seen = Copies("a")
    for _ in range(70):
        seen.append("a", 30)
        seen.report()
    for _ in range(30):
        seen.report()
    half, none = (seen.present.load(SHARD, seen.now_s, s) for s in (MINUTE_S, 10.0))
    assert half is not None
    assert none is not None
    assert half.whole.admitted_per_s == pytest.approx(15.0, rel=0.1)
    assert none.whole.admitted_per_s == 0.0
    seen.append("a", 20)  # after a rest: it counts in the second in which it came
    seen.report()
    last = seen.present.load(SHARD, seen.now_s, 5.0)
    assert last is not None
    assert last.whole.admitted_per_s == pytest.approx(4.0)


def test_copies_are_summed_and_a_late_report_lowers_nothing() -> None:
    seen = Copies("a", "b", "c")
    for _ in range(80):
        for name, count in (("a", 74), ("b", 55), ("c", 36)):
            seen.append(name, count)
        seen.report()
    for _ in range(3):  # b and c are late
        for name, count in (("a", 74), ("b", 55), ("c", 36)):
            seen.append(name, count)
        seen.report("a")
        load = seen.present.load(SHARD, seen.now_s, 10.0)
        assert load is not None
        assert load.whole.admitted_per_s == pytest.approx(165.0)
        assert {n: round(c.admitted_per_s) for n, c in load.copies.items()} == {
            "a": 74, "b": 55, "c": 36
        }  # fmt: skip


def test_a_copy_that_left_counts_while_its_operations_do() -> None:
    seen = Copies("a", "b")
    for _ in range(10):
        seen.append("a", 40)
        seen.running["a"].stored(SHARD, 1_000, seen.now_s)
        seen.report()
    seen.running["a"].forget(SHARD)
    for second in range(1, 70):
        seen.append("b", 40)
        seen.running["b"].stored(SHARD, 1_000, seen.now_s)
        seen.report()
        load = seen.present.load(SHARD, seen.now_s, 10.0)
        assert load is not None
        assert set(load.copies) == {"b"}
        assert load.whole.stored_bytes == 1_000
        assert load.whole.admitted_per_s == pytest.approx(40.0, rel=0.15), second
    assert seen.present._where == {SHARD: {"b"}}


def test_an_instance_that_began_again_is_counted_from_nothing() -> None:
    seen = Copies("a")
    for _ in range(5):
        seen.append("a", 100)
        seen.report()
    seen.running["a"] = RunningTotals()
    seen.sent["a"] = TotalsSent(seen.running["a"], lambda _: None, lambda *_: ())
    seen.append("a", 100)
    seen.now_s += 1.0
    seen.present.take("a", 2, seen.sent["a"].take("c", seen.now_s), seen.now_s)
    load = seen.present.load(SHARD, seen.now_s, 10.0)
    assert load is not None
    assert load.whole.admitted_per_s == pytest.approx(100.0)


def test_new_load_is_what_comes_for_the_first_time() -> None:
    """A client asks for 100/s, an instance serves 40/s: each refusal is sent again each second."""
    seen, waiting = Copies("a"), 0
    for _ in range(30):
        served_again = min(waiting, 40)
        served_new = 40 - served_again
        seen.append("a", 40, retried=served_again)
        seen.running["a"].failed(SHARD, 100 - served_new, seen.now_s, refused=True)
        again = waiting - served_again
        seen.running["a"].failed(SHARD, again, seen.now_s, refused=True, retried=True)
        waiting = again + 100 - served_new
        seen.report()
    load = seen.present.load(SHARD, seen.now_s, 10.0)
    assert load is not None
    assert load.whole.admitted_per_s == pytest.approx(40.0)
    assert load.whole.offered_per_s > 1_000
    assert load.whole.new_per_s == pytest.approx(100.0)


def test_what_a_follower_writes_is_its_load() -> None:
    seen = Copies("a", "b")
    for _ in range(20):
        seen.append("a", 100)
        seen.running["b"].replicated(SHARD, 100, 10_000, seen.now_s)
        seen.report()
    load = seen.present.load(SHARD, seen.now_s, 10.0)
    assert load is not None
    assert load.copies["b"].admitted_per_s == 0
    assert load.copies["b"].replicated_per_s == pytest.approx(100)
    assert load.copies["b"].bytes_per_s == pytest.approx(10_000)


def test_a_lost_report_loses_nothing_and_a_busy_instance_takes_turns() -> None:
    running = RunningTotals()
    sent = TotalsSent(running, lambda _: None, lambda *_: ())
    for n in range(TOTALS_MAX + 5):
        running.served(f"x/{n}", OpType.APPEND, 1, 1, 0.001, 0.0)
    first = sent.take("c", 1.0)
    assert len(first) == TOTALS_MAX
    sent.put_back("c", first)
    running.served("x/0", OpType.APPEND, 1, 1, 0.001, 1.0)
    again = [*sent.take("c", 2.0), *sent.take("c", 3.0)]
    assert {t.shard for t in again} == {f"x/{n}" for n in range(TOTALS_MAX + 5)}
    assert sent.take("c", 4.0) == []
    assert next(t.query_count for t in again if t.shard == "x/0") == 2


def test_keys_of_an_open_slot_are_sent_again_when_they_are_news() -> None:
    running, slot = RunningTotals(), [5, 100]
    sent = TotalsSent(running, lambda _: (slot[0], slot[1]), lambda *_: ((b"k", float(slot[1])),))

    def keys() -> tuple[tuple[bytes, float], ...]:
        running.served(SHARD, OpType.APPEND, 1, 1, 0.001, 0.0)
        (told,) = sent.take("c", 1.0)
        assert told.slot == slot[0]
        return told.sampled_keys

    assert keys() == ((b"k", 100.0),)
    slot[1] = 105
    assert keys() == ()
    slot[1] = 111
    assert keys() == ((b"k", 111.0),)
    slot[:] = 6, 1
    assert keys() == ((b"k", 1.0),)


@pytest.mark.parametrize(
    ("field", "value"),
    [("bytes_in", -1), ("age_s", -0.5), ("stored_bytes", 2**60), ("latency", {9999: 1}),
     ("counts", {OpType.SCAN: -1}), ("slot", 2**50), ("sampled_keys", ((b"k" * 70_000, 1.0),))],
)  # fmt: skip
def test_bad_totals_are_refused_alone(field: str, value: object) -> None:
    import msgspec

    good = ShardTotals("x/0", 1.0, {OpType.APPEND: 3})
    bad = ShardTotals(**{"shard": "x/1", "age_s": 1.0, "counts": {}, field: value})  # type: ignore[arg-type]
    strange = ShardTotals("x/7", 1.0, {})
    found, refused = decode_totals(msgspec.json.encode([bad, good, strange]), {"x": 2})
    assert found == [good]
    assert len(refused) == 2
    assert field.split("_")[0].rstrip("s") in refused[0]
    assert decode_totals(b"[7]", {})[0] == []


def test_a_copys_last_slot_stands_until_the_new_one_is_closed() -> None:
    loads = SlotLoads()
    for name, ops in (("a", 74), ("b", 55), ("c", 36)):
        loads.take(statistic("x/0", name, 6, ops))
    loads.take(statistic("x/0", "a", 7, 80))
    early, late = loads.whole("x/0", closed=6), loads.whole("x/0", closed=7)
    assert early is not None
    assert late is not None
    assert (early.slot, early.ops) == (7, 80.0 + 55 + 36)
    assert (late.slot, late.ops) == (7, 80.0)


def test_forecasts_learn_what_came_for_the_first_time() -> None:
    from dataclasses import replace

    book = intake()
    row = replace(statistic("x/0", "a", 7, 40), refused_count=90, retried_count=30)
    book.take("a", 1, [row], None, 0.0, 0)
    book.learn(0.0)
    assert book.book.state("x/0")["values"][-1] == 100.0
