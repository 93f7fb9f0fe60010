"""The checker finds what was planted, and nothing else."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.local.checker import Check, Verdict
from coordinator.local.journal import Journal, JournalEntry, read_journal, value_hash
from logstore.base.errors import ConfigError
from logstore.base.types import Ack

Row = tuple[bytes, bytes, int, str, int]

KEYS = [b"a", b"b", b"c"]


def stream(count: int = 30) -> list[Row]:
    """Records of three keys over two shards."""
    rows: list[Row] = []
    ends = {"l/0": 0, "l/1": 0}
    for i in range(count):
        shard = "l/1" if i % 3 == 2 else "l/0"
        rows.append((KEYS[i % 3], b"value %d" % i, 1_000 + i, shard, ends[shard]))
        ends[shard] += 1
    return rows


def entries(rows: list[Row]) -> list[JournalEntry]:
    seen: dict[bytes, int] = {}
    found = []
    for key, value, time_us, shard, offset in rows:
        found.append(JournalEntry(key, value_hash(value), seen.get(key, 0), time_us, shard, offset))
        seen[key] = seen.get(key, 0) + 1
    return found


def judge(promised: list[JournalEntry], log: list[Row]) -> Verdict:
    check = Check("l")
    check.expect(promised)
    for row in log:
        check.row(*row)
    return check.verdict()


def faults(verdict: Verdict) -> tuple[int, int, int, int]:
    return verdict.lost, verdict.duplicated, verdict.out_of_order, verdict.changed


def test_a_log_as_promised_has_no_fault() -> None:
    rows = stream()
    verdict = judge(entries(rows), rows)
    assert faults(verdict) == (0, 0, 0, 0)
    assert verdict.ok
    assert (verdict.acked, verdict.in_log, verdict.unjournalled) == (30, 30, 0)


def test_shards_may_be_read_in_any_order() -> None:
    rows = stream()
    turned = [r for r in rows if r[3] == "l/1"] + [r for r in rows if r[3] == "l/0"]
    assert judge(entries(rows), turned).ok


def test_a_missing_record_is_lost() -> None:
    rows = stream()
    verdict = judge(entries(rows), rows[:7] + rows[8:])
    assert faults(verdict) == (1, 0, 0, 0)
    assert not verdict.ok
    assert any("lost: b'b'" in text for text in verdict.examples)


def test_a_record_whose_place_was_taken_by_the_next_is_lost() -> None:
    rows = stream()
    shard = [r for r in rows if r[3] == "l/1"]
    moved_up = [(*r[:4], r[4] - 1) for r in shard[1:]]
    verdict = judge(entries(rows), [r for r in rows if r[3] == "l/0"] + moved_up)
    assert verdict.lost == 1
    assert verdict.changed == len(shard) - 2  # the others stand where they were not acked


def test_a_second_copy_is_a_duplicate_and_not_out_of_order() -> None:
    rows = stream()
    again = (*rows[4][:3], "l/0", 500)
    verdict = judge(entries(rows), [*rows, again])
    assert faults(verdict) == (0, 1, 0, 0)
    assert verdict.unjournalled == 0


def test_records_that_changed_places_are_changed() -> None:
    rows = stream()
    # Two records of b"a" at each other's offset: both places name other bytes now (I4).
    first, second = rows[0], rows[3]
    log = list(rows)
    log[0], log[3] = (*second[:3], first[3], first[4]), (*first[:3], second[3], second[4])
    verdict = judge(entries(rows), log)
    assert verdict.changed == 2
    assert verdict.lost == 0


def test_a_reader_that_gives_a_key_in_the_wrong_order_is_caught() -> None:
    rows = stream()
    log = list(rows)
    log[0], log[3] = log[3], log[0]  # right places, wrong order of reading
    assert faults(judge(entries(rows), log)) == (0, 0, 1, 0)


def test_a_changed_value_and_a_changed_time_are_changed() -> None:
    rows = stream()
    log = list(rows)
    log[5] = (log[5][0], b"forged", *log[5][2:])
    log[6] = (*log[6][:2], 99, *log[6][3:])
    verdict = judge(entries(rows), log)
    assert faults(verdict) == (0, 0, 0, 2)
    assert verdict.unjournalled == 1


def test_an_unknown_outcome_may_be_there_or_not_but_not_twice() -> None:
    rows = stream()
    unsure = JournalEntry(b"a", value_hash(b"maybe"), 10)
    promised = [*entries(rows), unsure]
    stored = (b"a", b"maybe", 5_000, "l/0", 20)
    assert judge(promised, rows).ok
    assert judge(promised, [*rows, stored]).ok
    twice = [*rows, stored, (*stored[:4], 21)]
    assert faults(judge(promised, twice)) == (0, 1, 0, 0)


def test_equal_values_are_counted() -> None:
    rows: list[Row] = [(b"a", b"same", 1, "l/0", i) for i in range(3)]
    assert judge(entries(rows), rows).ok
    assert faults(judge(entries(rows), rows[:2])) == (1, 0, 0, 0)
    assert faults(judge(entries(rows), [*rows, (b"a", b"same", 1, "l/0", 3)])) == (0, 1, 0, 0)


def test_two_acks_for_one_place_are_refused() -> None:
    rows = stream(3)
    with pytest.raises(ConfigError, match="two acks name offset 0 of shard l/0"):
        judge([*entries(rows), JournalEntry(b"z", 1, 0, None, "l/0", 0)], rows)


def test_a_journal_is_read_back_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, "l") as journal:
        n = journal.number(b"\xff\x00")
        journal.acked(b"\xff\x00", b"v", n, Ack("l/0", 7, 5), 5)
        journal.unknown(b"k", b"w", journal.number(b"k"))
    with path.open("ab") as torn:
        torn.write(b'{"k":"aGFs')
    with Journal(path, "l") as journal:
        assert journal.number(b"k") == 1
        journal.unknown(b"k", b"w", 1)
    header, found = read_journal(path)
    assert header.log == "l"
    assert list(found) == [
        JournalEntry(b"\xff\x00", value_hash(b"v"), 0, 5, "l/0", 7),
        JournalEntry(b"k", value_hash(b"w"), 0),
        JournalEntry(b"k", value_hash(b"w"), 1),
    ]
    with pytest.raises(ConfigError, match="is of log 'l', not of 'other'"):
        Journal(path, "other")


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"journal":1,"log":"l"}\n{"k":3}\n')
    _, found = read_journal(path)
    with pytest.raises(ConfigError, match="line 2"):
        list(found)
    with pytest.raises(ConfigError, match="No such file"):
        read_journal(tmp_path / "absent")


def test_a_journal_survives_kill_9_of_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    program = (
        "import sys\nfrom pathlib import Path\nfrom coordinator.local.journal import Journal\n"
        "from logstore.base.types import Ack\n"
        "journal = Journal(Path(sys.argv[1]), 'l')\n"
        "for i in range(10**9):\n"
        "    journal.acked(b'k', b'v', journal.number(b'k'), Ack('l/0', i, 0))\n"
        "    if i == 99: print('hundred', flush=True)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "hundred\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    _, found = read_journal(path)
    offsets = [entry.o for entry in found]
    assert len(offsets) >= 100
    assert offsets == list(range(len(offsets)))
