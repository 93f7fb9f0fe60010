"""What the coordinator does about a feed: its topic's name, and a broker that stays away."""

from dataclasses import replace

import pytest

from coordinator.migration.common import feed_given_up, feed_topic
from coordinator.migration.facts import CopyReport, Facts, RecordWrite
from coordinator.migration.records import MigrationRecord, MoveOptions, State
from logstore.base.types import ShardStatus
from logstore.meta.records import Member, ShardRecord
from sharder.keys import KeyRange

SOURCE, TARGET = Member("a", 1, 1), Member("b", 1, 2)
PREFIX = "logstore-1f-feed-"
SHARD = ShardRecord(
    shard="orders/0", log="orders", range=KeyRange(), status=ShardStatus.OPEN, epoch=2,
    primary_since=2, primary=SOURCE, in_sync=(SOURCE,), learners=(TARGET,), migration="m7",
    feed_topic=f"{PREFIX}m7.2",
)  # fmt: skip


def record(**options: object) -> MigrationRecord:
    return MigrationRecord(
        id="m7", log="orders", shard="orders/0", source=SOURCE, target_instance="b",
        created_us=0, state=State.CATCHING_UP, target=TARGET,
        options=replace(MoveOptions(), feed="kafka", **options),  # type: ignore[arg-type]
    )  # fmt: skip


def facts(down_s: float) -> Facts:
    copy = CopyReport(2, "learner", 0, b"", 0, "feed", feed_down_s=down_s, feed_error="gone")
    return Facts(now_us=10, shard=SHARD, target=copy, feed_prefix=PREFIX)


def test_each_attempt_has_a_topic_of_its_own() -> None:
    assert feed_topic(record(), facts(0), 2) == f"{PREFIX}m7.2"
    assert feed_topic(record(), facts(0), 3) == f"{PREFIX}m7.3"
    assert feed_topic(record(), replace(facts(0), feed_prefix=""), 3) == ""
    direct = replace(record(), options=MoveOptions())
    assert feed_topic(direct, facts(0), 3) == ""


def test_within_the_deadline_it_waits() -> None:
    assert feed_given_up(record(feed_deadline_s=5.0), facts(4.9), SHARD) is None
    unnamed = replace(SHARD, feed_topic="")
    assert feed_given_up(record(feed_deadline_s=5.0), facts(99.0), unnamed) is None


@pytest.mark.parametrize("fallback", ["direct", "rollback"])
def test_after_it_the_options_say_what_follows(fallback: str) -> None:
    asked = record(feed_deadline_s=5.0, feed_fallback=fallback)
    effect = feed_given_up(asked, facts(5.1), SHARD)
    assert isinstance(effect, RecordWrite)
    assert effect.shard is not None
    assert effect.shard.feed_topic == ""
    if fallback == "direct":
        assert effect.record.state is State.CATCHING_UP
        assert "gone; it goes on directly" in effect.record.notes[-1]
    else:
        assert effect.record.state is State.ROLLING_BACK
        assert "feed_deadline_s = 5 s" in (effect.record.cause or "")
