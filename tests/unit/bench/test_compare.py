"""The table judges by ratios of pairs, hides nothing, and history survives a cut-off line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import history
from bench.__main__ import COMMANDS, GROUPS, build
from bench.figures import RULES, Figures, Rule, budget_rows, rows_json
from bench.report import draw_comparison, draw_history, write_html

RATE = Rule("B1", "x", "ours", "theirs", True, 1.5)
TIME = Rule("B7", "x", "ours-ms", None, False, 3)


def test_the_ratio_is_the_median_of_the_pairs_not_of_the_medians() -> None:
    figures = Figures()
    for mine, other in ((100, 50), (10, 10), (300, 100)):
        figures.add("ours", mine, "records/s")
        figures.add("theirs", other, "records/s")
    assert figures.median("ours") == 100
    assert figures.pair_ratio("ours", "theirs") == 2.0
    (row,) = budget_rows(figures, (RATE,))
    assert (row.verdict, row.ratio) == ("pass", 2.0)


def test_short_and_not_measured_are_told() -> None:
    figures = Figures()
    figures.add("ours", 100, "records/s")
    figures.add("theirs", 90, "records/s")
    figures.add("ours-ms", 3.5, "ms")
    short, slow = budget_rows(figures, (RATE, TIME))
    assert short.verdict == slow.verdict == "short"
    assert slow.ratio is None
    empty = Figures()
    empty.cannot("ours", "no server")
    (row,) = budget_rows(empty, (RATE,))
    assert (row.verdict, row.note) == ("not measured", "no server")
    half = Figures()
    half.add("ours", 1, "records/s")
    (row,) = budget_rows(half, (RATE,))
    assert row.verdict == "not measured"
    assert "theirs" in row.note


def test_every_budget_from_b1_to_b7_has_a_rule() -> None:
    assert {rule.budget for rule in RULES} == {f"B{number}" for number in range(1, 8)}


def test_a_figure_keeps_its_unit() -> None:
    figures = Figures()
    figures.add("a", 1, "ms")
    with pytest.raises(ValueError, match="not in MB/s"):
        figures.add("a", 1, "MB/s")


def test_history_keeps_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    written = history.append_line("compare", {"seed": 1}, path)
    history.append_line("other", {"seed": 2}, path)
    with path.open("a") as handle:
        handle.write('{"kind": "compare", "se')
    assert history.read_lines(path, "compare") == [written]
    assert len(history.read_lines(path)) == 2
    assert {"time", "commit", "kind", "seed"} <= set(written)
    assert history.machine()["cores"] >= 1


def test_report_draws_what_was_measured(tmp_path: Path) -> None:
    figures = Figures()
    for value in (1e5, 2e5, 3e5):
        figures.add("append/ours", value, "records/s")
        figures.add("append/kafka-perf-test", value / 2, "records/s")
        figures.add("consume/ours", value, "records/s")
    line = {
        "time": "2013-01-01T00:00:00Z",
        "commit": "abc",
        "mode": "quick",
        "rounds": 3,
        "record_bytes": 100,
        "machine": {"cores": 2},
        "figures": figures.as_json(),
        "budgets": rows_json(budget_rows(figures)),
        "peers": {"<x>": {"durability": "os", "processes": 2, "settings": [["a", "b", "c"]]}},
    }
    json.dumps(line)
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    draw_comparison(line, pictures[0])
    draw_history([line, line], pictures[1])
    write_html(line, pictures, tmp_path / "r.html")
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/png") == 2
    assert "&lt;x&gt;" in page
    assert "not measured" in page


def test_every_subcommand_has_help() -> None:
    for name in [*COMMANDS, *GROUPS]:
        done = CliRunner().invoke(build([name]), [name, "--help"])
        assert done.exit_code == 0, done.output
        assert "Usage" in done.output
