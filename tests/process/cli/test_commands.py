"""Every command against a real cluster: what it prints as JSON, and how it ends."""

import base64
from pathlib import Path

from coordinator.local.journal import Journal
from logstore.base.types import Ack
from tests.process.cli.conftest import Shell


def test_logs_and_records(shell: Shell, tmp_path: Path) -> None:
    (made,) = shell.lines(
        "log", "create", "orders", "--shards", "2", "--option", "durability=fsync"
    )
    assert made["options"]["durability"] == "fsync"
    assert len(made["shards"]) == 2
    (listed,) = shell.lines("log", "list")[0]
    assert listed.pop("map_version") >= made["map_version"]  # primaries raise their epochs
    assert listed == {"log": "orders", "options": made["options"], "shards": 2}
    (ack,) = shell.lines("append", "orders", "k", "v", "--header", "a=b", "--timestamp", "5")
    assert ack == {"shard": "orders/0", "offset": 0, "timestamp": 5}
    (ack,) = shell.lines("append", "orders", "k", "w", "--expected-version", "1")
    assert ack["version"] == 2
    assert "expected_version is 1" in shell.text(
        "append", "orders", "k", "w", "--expected-version", "1", status=1
    )
    lines = tmp_path / "lines"
    lines.write_text('{"key": "l", "value": "x"}\n' * 3)
    assert shell.lines("append", "orders", "--file", str(lines)) == [{"appended": 3}]
    lines.write_text('{"key": "l", "value": "x"}\n{"key": 7}\n')
    assert "line 2" in shell.text("append", "orders", "--file", str(lines), status=1)
    first = shell.lines("read", "orders", "--key", "k")[0]
    assert first == {"shard": "orders/0", "offset": 0, "timestamp": 5, "key": "k", "value": "v",
                     "headers": {"a": "b"}}  # fmt: skip
    assert len(shell.lines("read", "orders")) == 6  # line 1, which came before the bad one, too
    assert len(shell.lines("tail", "orders", "--from-start", "--limit", "5")) == 5
    (counted,) = shell.lines("log", "count", "orders")
    assert (counted["records"], counted["whole"]) == (6, True)
    assert [s["shard"] for s in counted["shards"]] == ["orders/0", "orders/1"]
    assert "6 records" in shell.text("log", "count", "orders")
    assert "'nolog' does not exist" in shell.text("log", "count", "nolog", status=1)
    assert "orders/0:1" in shell.text("read", "orders", "--shard", "orders/0", "--offset", "1")
    assert "'nolog' does not exist" in shell.text("read", "nolog", status=1)


def test_a_log_starts_as_its_history_says(shell: Shell, tmp_path: Path) -> None:
    rows = [(n, f"k{n % 100:03}") for n in range(2_000)] + [(n, "k050") for n in range(2_000)]
    history = tmp_path / "accesses.csv"
    history.write_text("time_s,key,op,size\n" + "".join(f"{t},{k},append,8\n" for t, k in rows))
    given = ("log", "create", "planned", "--from-history", str(history))
    made = shell.lines(*given, "--shards", "5")[0]
    starts = [base64.b64decode(s["range"]["start"]) for s in made["shards"]]
    assert len(starts) == 5
    hot = max(n for n, start in enumerate(starts) if start <= b"k050")
    assert starts[hot] > b"k049"  # half of the history is one key: it gets a shard of its own
    assert starts[hot + 1] <= b"k051"
    homes = [s["primary"]["instance"] for s in made["shards"]]
    assert homes.count(homes[hot]) <= 2  # and the rest of the load is elsewhere
    assert len(set(homes)) == 2
    assert "--split-key" in shell.text(*given, "--split-key", "k", status=2)
    assert "balanced" in shell.text(*given, "--partitioner", "balanced", status=2)
    history.write_text("time_s,key\nsoon,k\n")
    assert "line 2: time_s is 'soon'" in shell.text(*given, status=2)


def test_a_move_and_what_is_told_of_it(shell: Shell) -> None:
    shell.lines("log", "create", "m", "--instance", "instance-1")
    shell.lines("append", "m", "k", "v")
    (dry,) = shell.lines("move", "m/0", "instance-2", "--dry-run", "--option", "soak_s=1")
    assert dry["dry_run"] is True
    assert dry["options"]["soak_s"] == 1
    assert shell.lines("migrations")[0] == []
    states = [
        line["state"]
        for line in shell.lines(
            "move", "m/0", "instance-2", "--watch", "--option", "soak_s=0.2",
            "--option", "shadow_s=0.1", "--option", "ramp_step=0.5",
        )
    ]  # fmt: skip
    assert states[-1] == "completed"
    (moved,) = shell.lines("migrations")[0]
    assert moved["hash_equal"] is True
    assert shell.lines("migrations", moved["id"])[0]["story"][-1].endswith("completed")
    assert shell.lines("shards", "m")[0][0]["primary"]["instance"] == "instance-2"
    (verified,) = shell.lines("verify", "m/0", "--deep")
    assert verified["equal"] is True
    assert verified["copies"][0]["end"] == 1
    assert "has ended" in shell.text("rollback", moved["id"], status=2)
    assert "is not registered" in shell.text("move", "m/0", "nobody", status=1)


def test_split_and_merge(shell: Shell) -> None:
    shell.lines("log", "create", "sm", "--instance", "instance-1")
    for key in ("a", "m", "z"):
        shell.lines("append", "sm", key, "0")
    assert "nothing is done" in shell.text("split", "sm/0", "--at", "m", "--dry-run")
    (split,) = shell.lines("split", "sm/0", "--at", "m")
    assert (split["state"], split["successors"]) == ("completed", ["sm/1", "sm/2"])
    assert shell.lines("append", "sm", "m", "1", "--expected-version", "1")[0]["shard"] == "sm/2"
    assert "are no neighbours" in shell.text("merge", "sm/1", "sm/1", status=2)
    answer = shell.text("merge", "sm/2", "sm/1")
    assert "sm/1 and sm/2 became sm/3" in answer
    assert "appends were held" in answer
    read = shell.lines("read", "sm", "--key", "m")
    assert [(r["shard"], r["value"]) for r in read] == [("sm/0", "0"), ("sm/2", "1")]
    kinds = {r["kind"] for r in shell.lines("reshapes")[0]}
    assert kinds == {"split", "merge"}
    (dry,) = shell.lines("move", "sm/3", "instance-2", "--strategy", "copy-on-write", "--dry-run")
    assert [step["state"] for step in dry["steps"]][2:4] == ["cutover", "snapshot"]
    assert dry["blackout_ms"] > 0


def test_what_the_cluster_says_of_itself(shell: Shell, tmp_path: Path) -> None:
    shell.lines("log", "create", "s")
    shell.lines("append", "s", "k", "v")
    assert {i["instance"] for i in shell.lines("instances")[0]} == {"instance-1", "instance-2"}
    assert set(shell.lines("stats")[0]["instances"]) == {"instance-1", "instance-2"}
    assert "starts_hex" in shell.lines("heatmap", "s")[0]
    assert "score" in shell.lines("forecast", "--score")[0]
    stored = tmp_path / "view.json"
    made = shell.lines("plan", "--explain", "--save-view", str(stored))[0]
    replayed = shell.lines("plan", "--explain", "--view", str(stored))[0]
    assert replayed == {**made, "autopilot": "replay"}
    assert replayed["explain"]
    assert shell.lines("autopilot", "forecast-only") == [{"autopilot": "forecast-only"}]
    assert "it must be one of" in shell.text("autopilot", "sideways", status=2)
    assert "instance-1" in shell.text("instances")
    assert "below the threshold" in shell.text("plan", "--explain")


def test_verify_finds_what_the_journal_was_promised(shell: Shell, tmp_path: Path) -> None:
    shell.lines("log", "create", "v")
    path = tmp_path / "journal.jsonl"
    with Journal(path, "v") as journal:
        for value in (b"1", b"2"):
            (ack,) = shell.lines("append", "v", "k", value.decode())
            answer = Ack(ack["shard"], ack["offset"], ack["timestamp"])
            journal.acked(b"k", value, journal.number(b"k"), answer)
        assert shell.lines("verify", "--journal", str(path))[0]["lost"] == 0
        journal.acked(b"k", b"never sent", journal.number(b"k"), Ack("v/0", 2, 0))
    (verdict,) = shell.lines("verify", "--journal", str(path), status=1)
    assert (verdict["acked"], verdict["lost"]) == (3, 1)
    (answer,) = shell.lines("log", "delete", "v", "--yes")
    assert (answer["deleted"], answer["shards"], answer["keep_s"]) == ("v", 1, 86_400.0)
