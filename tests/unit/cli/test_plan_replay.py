"""`logstore plan --view` replays a stored view to the same plan; no cluster is needed."""

import json
from pathlib import Path

import pytest

from coordinator.cli.main import main
from sharder.plan import dump_plan, explain, plan
from sharder.view import SplitPoint, dump_view
from tests.unit.sharder.scenes import scene, shard


def test_a_stored_view_replays_to_the_same_plan_to_the_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    view = scene(
        [
            shard("log/0", "a", [50.0] * 6, 4.0),
            shard("log/1", "a", [45.0] * 6, 2.0, cuts=(SplitPoint(b"k\xff", 0.4),)),
            shard("log/2", "b", [40.0] * 6),
        ],
        {"a": 100.0, "b": 100.0},
    )
    stored = tmp_path / "view.json"
    stored.write_bytes(dump_view(view))
    made = plan(view)
    assert made.operators
    assert main(["plan", "--explain", "--view", str(stored), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("explain") == explain(made)
    assert found.pop("autopilot") == "replay"
    assert found == json.loads(dump_plan(made))
    assert main(["plan", "--explain", "--view", str(stored)]) == 0
    answer = capsys.readouterr().out
    assert "[1] b keeps its shards" in answer


def test_what_is_no_view_is_refused_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"now_s": 1}')
    assert main(["plan", "--view", str(wrong)]) == 2
    assert "not a stored view" in capsys.readouterr().err
    assert main(["plan", "--view", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main(["plan", "--view", str(wrong), "--history"]) == 2
    assert "--view and --history exclude each other" in capsys.readouterr().err
