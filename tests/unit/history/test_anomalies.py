"""Each anomaly is planted into a sound history, through the file, and must be found there."""

from pathlib import Path

import pytest

from tests.support.checkers.history import Row
from tests.support.history.anomalies import check, summary
from tests.support.history.record import Recorder, Story, load

SHARD = "log/0"


class Plant:
    """A small sound history: four appends, a read of a key, one consumer, the final read."""

    def __init__(self, path: Path) -> None:
        self.record = Recorder(path)
        self.rows: list[Row] = []
        for n in range(4):
            self.append(b"v%d" % n)
        read = self.record.call("c1", b"k")
        self.record.returned(read, "acked", rows=self.rows)
        self.polled = list(self.rows)
        self.final = list(self.rows)

    def row(self, offset: int, value: bytes) -> Row:
        return Row(SHARD, offset, b"k", value, 0)

    def append(self, value: bytes) -> None:
        call = self.record.call("c1", b"k", value)
        offset = len(self.rows)
        self.record.returned(call, "acked", shard=SHARD, offset=offset)
        self.rows.append(self.row(offset, value))

    def judged(self) -> set[str]:
        self.record.polled("t1", self.polled[:2])
        self.record.polled("t1", self.polled[2:])
        self.record.ended("t1", caught_up=True)
        self.record.final(self.final)
        self.record.close()
        return set(summary(check(load(self.record.path))))


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path / "history.jsonl")


def test_a_sound_history_has_none(plant: Plant) -> None:
    unknown = plant.record.call("c2", b"k", b"nobody knows")
    plant.record.returned(unknown, "unknown", error="deadline")
    plant.record.call("c2", b"k", b"never returned")
    assert plant.judged() == set()


def test_lost_write(plant: Plant) -> None:
    plant.append(b"v4")
    plant.polled.append(plant.rows[4])
    assert "lost-write" in plant.judged()


def test_what_a_reader_saw_is_lost(plant: Plant) -> None:
    plant.record.call("c2", b"k", b"unknown")
    plant.polled.append(plant.row(4, b"unknown"))
    assert plant.judged() == {"lost-write"}


def test_aborted_read(plant: Plant) -> None:
    call = plant.record.call("c2", b"k", b"refused")
    plant.record.returned(call, "refused", error="not stored")
    for rows in (plant.polled, plant.final):
        rows.append(plant.row(4, b"refused"))
    assert plant.judged() == {"aborted-read", "not-once"}


def test_a_record_of_nobody(plant: Plant) -> None:
    for rows in (plant.polled, plant.final):
        rows.append(plant.row(4, b"whose"))
    assert plant.judged() == {"aborted-read", "not-once"}


def test_duplicate(plant: Plant) -> None:
    for rows in (plant.polled, plant.final):
        rows.append(plant.row(4, b"v1"))
    assert {"duplicate", "not-once"} <= plant.judged()


def test_inconsistent_offset(plant: Plant) -> None:
    plant.append(b"v4")
    plant.append(b"v5")
    plant.final = [*plant.rows[:4], plant.row(4, b"v5"), plant.row(5, b"v4")]
    plant.polled = list(plant.final)
    assert "inconsistent-offset" in plant.judged()


def test_skip(plant: Plant) -> None:
    del plant.polled[1]
    assert plant.judged() == {"skip", "unseen"}


def test_nonmonotonic_poll(plant: Plant) -> None:
    plant.polled.append(plant.rows[2])
    assert plant.judged() == {"nonmonotonic-poll"}


def test_unseen(plant: Plant) -> None:
    del plant.polled[3]
    assert plant.judged() == {"unseen"}


def test_reordered_send(plant: Plant) -> None:
    first, second = (plant.record.call("c1", b"x%d" % i, b"x%d" % i) for i in (1, 2))
    plant.record.returned(first, "acked", shard=SHARD, offset=5)
    plant.record.returned(second, "acked", shard=SHARD, offset=6)
    late = plant.record.call("c2", b"y", b"y")
    plant.record.returned(late, "acked", shard=SHARD, offset=4)
    more = [Row(SHARD, 4, b"y", b"y", 0), *(Row(SHARD, 4 + i, b"x%d" % i, b"x%d" % i, 0)
                                            for i in (1, 2))]  # fmt: skip
    plant.polled += more
    plant.final += more
    assert plant.judged() == {"reordered-send"}


def test_gap_in_the_final_read(plant: Plant) -> None:
    plant.record.call("c2", b"k", b"far")
    for rows in (plant.polled, plant.final):
        rows.append(plant.row(7, b"far"))
    assert plant.judged() == {"gap", "skip"}


def test_a_read_without_what_its_client_was_acked(plant: Plant) -> None:
    read = plant.record.call("c1", b"k")
    plant.record.returned(read, "acked", rows=plant.rows[:3])
    assert plant.judged() == {"not-a-prefix"}


def test_a_read_with_a_hole(plant: Plant) -> None:
    read = plant.record.call("c2", b"k")
    plant.record.returned(read, "acked", rows=[plant.rows[0], plant.rows[2]])
    assert plant.judged() == {"not-a-prefix"}


def test_two_conditional_appends_on_one_version(plant: Plant) -> None:
    for offset, value in ((4, b"a"), (5, b"b")):
        call = plant.record.call("c2", b"k", value, expected=4)
        plant.record.returned(call, "acked", shard=SHARD, offset=offset, version=5)
        for rows in (plant.polled, plant.final):
            rows.append(plant.row(offset, value))
    assert plant.judged() == {"not-linearizable", "not-once"}


def test_a_killed_recorder_leaves_a_history(plant: Plant) -> None:
    plant.record.call("c9", b"k", b"torn")
    data = plant.record.path.read_bytes()
    plant.record.path.write_bytes(data[:-5])
    story: Story = load(plant.record.path)
    assert [call.value for call in story.appends] == [b"v0", b"v1", b"v2", b"v3"]
    assert len(story.reads) == 1


def test_a_broken_line_is_named(plant: Plant) -> None:
    plant.record.path.write_bytes(plant.record.path.read_bytes().replace(b"call", b"what", 1))
    with pytest.raises(ValueError, match="line 1"):
        load(plant.record.path)
