"""What an instance tells of a copy's last seconds."""

from logstore.base.errors import (
    InvalidArgumentError,
    NotServingError,
    OverloadedError,
    WrongShardError,
)
from logstore.node.statistics.recent_operations import RecentOperations
from profiler.histogram import LatencyHistogram


def total(counts: object) -> int:
    assert hasattr(counts, "values")
    return sum(counts.values())


def test_the_first_question_is_answered_of_the_seconds_before_it() -> None:
    recent = RecentOperations()
    for second in range(100):
        recent.read("x/0", 0.002, float(second))
        recent.appended("x/0", 0.004, second + 0.5)
    found = recent.of("x/0", 5.0, 99.9)
    assert 5.0 <= found.over_s <= 10.0
    assert total(found.reads) == total(found.appends) == round(found.over_s)
    times = LatencyHistogram()
    times.add_counts(found.reads, {})
    assert 0.0019 < times.percentile_s(0.99) < 0.0021


def test_a_copy_that_is_asked_about_counts_in_quarters_of_a_second() -> None:
    recent = RecentOperations()
    recent.of("x/0", 5.0, 10.0)
    for n in range(40):
        recent.read("x/0", 0.001, 10.0 + n * 0.25)
    found = recent.of("x/0", 1.0, 20.0)
    assert (found.over_s, total(found.reads)) == (1.0, 4)
    assert recent.of("x/0", 0.1, 20.0).over_s == 0.0
    assert total(recent.of("x/0", 10.0, 20.0).reads) == 40


def test_only_failures_of_the_instance_count() -> None:
    recent = RecentOperations()
    for error in (
        OverloadedError("full", retry_after_ms=1),
        NotServingError("behind"),
        RuntimeError("a fault"),
        InvalidArgumentError("a mistake"),
        WrongShardError("elsewhere"),
    ):
        recent.failed("x/0", error, 1.0)
    found = recent.of("x/0", 5.0, 2.0)
    assert dict(found.failed) == {"overloaded": 1, "not_serving": 1, "internal": 1}


def test_what_is_long_ago_or_of_a_copy_that_left_is_not_told() -> None:
    recent = RecentOperations()
    recent.read("x/0", 0.001, 1.0)
    assert total(recent.of("x/0", 5.0, 60.0).reads) == 0
    recent.read("x/0", 0.001, 60.0)
    recent.forget("x/0")
    assert total(recent.of("x/0", 5.0, 61.0).reads) == 0


def test_fine_slices_end_when_nobody_asks() -> None:
    recent = RecentOperations()
    recent.of("x/0", 5.0, 0.0)
    for second in range(200):
        recent.read("x/0", 0.001, float(second))
    found = recent.of("x/0", 1.0, 200.0)
    assert found.over_s > 1.0, "the coarse slices answer"
