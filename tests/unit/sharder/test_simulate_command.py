"""`logstore simulate`: files in, figures out, inputs echoed, forecasts kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from coordinator.cli.main import main


def write_series(path: Path, slots: int = 120) -> Path:
    hour = np.arange(slots)
    rng = np.random.default_rng(3)
    lines = ["time,a,b,c,d"]
    wave = [
        100 * (1 + 0.9 * np.cos(2 * np.pi * (hour - p) / 24)) + rng.uniform(0, 20, slots)
        for p in (3, 4, 15, 16)
    ]
    for n in range(slots):
        lines.append(f"{n * 3600}," + ",".join(f"{w[n]:.1f}" for w in wave))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_series_gives_metrics_of_each_policy_and_echoes_its_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_series(tmp_path / "load.csv")
    command = [
        "simulate", "--series", str(file), "--instances", "2", "--capacity", "auto:1.2",
        "--move-slots", "1", "--seed", "4", "--json", "--cache", str(tmp_path / "kept"),
        "--policies", "static-mean,reactive-memory,ours,oracle",
    ]  # fmt: skip
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    given = first["inputs"]
    assert (given["slots"], given["columns"], given["instances"]) == (120, 4, 2)
    assert (given["slot_s"], given["move_slots"], given["seed"]) == (3600.0, 1, 4)
    assert given["capacity"] > 0
    assert list(first["policies"]) == ["static-mean", "reactive-memory", "ours", "oracle"]
    for metrics in first["policies"].values():
        assert {"overloaded_instance_slots", "slo_slots", "instance_hours", "bytes_moved", "moves",
                "flip_flops", "worst_slot", "lead_s"} <= set(metrics)  # fmt: skip
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_events_become_a_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "events.csv"
    rows = [f"{n * 0.5},key-{n % 7},append,100" for n in range(400)]
    file.write_text("time_s,key,op,size\n" + "\n".join(rows) + "\n")
    command = ["simulate", "--events", str(file), "--slot-s", "10", "--instances", "2"]
    kept = ["--policies", "static-mean", "--json", "--cache", str(tmp_path)]
    assert main([*command, *kept]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["inputs"]["columns"], found["inputs"]["slots"]) == (7, 20)
    assert main([*command, *kept[:2], "--cache", str(tmp_path)]) == 0
    assert "static-mean" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ("slot,a\n0,x\n1,2\n", ["--slot-s", "60"], "line 2, a: 'x' is not a number"),
        ("slot,a\n0,1\n1,2\n", [], "give --slot-s"),
        ("slot,a\n0,1,2\n", ["--slot-s", "60"], "3 fields, not 2"),
        ("slot,a\n0,1\n1,2\n", ["--slot-s", "60", "--policies", "best"], "policy is 'best'"),
        ("slot,a\n0,1\n1,2\n", ["--slot-s", "60", "--capacity", "huge"], "capacity is 'huge'"),
    ],
)
def test_bad_input_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    more: list[str],
    message: str,
) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(content)
    assert main(["simulate", "--series", str(file), "--cache", str(tmp_path), *more]) == 2
    assert message in capsys.readouterr().err
