"""`python -m bench report`: the last comparison and the history, as PNG and one HTML page."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import history
from bench.services.paths import cache_root

HISTORY_NAMES = ("append/ours", "append/ours-indexed", "append/ours-fsync", "append/ours-3",
                 "append/kafka-perf-test", "consume/ours")  # fmt: skip


def _plots() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw_comparison(line: dict[str, Any], path: Path) -> None:
    """Bars of every append and consume rate of one run, logarithmic: they differ by hundreds."""
    pyplot = _plots()
    groups = {
        kind: sorted(
            (entry["median"], name.partition("/")[2], entry["values"])
            for name, entry in line["figures"].items()
            if name.startswith(kind)
        )
        for kind in ("append/", "consume/")
    }
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    for axis, (kind, bars) in zip(axes, groups.items(), strict=True):
        names = [name for _, name, _ in bars]
        colours = ["#1f6f8b" if name.startswith("ours") else "#b0b7bc" for name in names]
        axis.barh(names, [median for median, _, _ in bars], color=colours)
        for row, (_, _, values) in enumerate(bars):
            axis.plot([min(values), max(values)], [row, row], color="black", linewidth=1)
        axis.set_xscale("log")
        axis.set_xlabel("records/s (median; line: least to most)")
        axis.set_title(f"{kind.rstrip('/')}, {line['record_bytes']} B records, {line['mode']}")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_history(lines: list[dict[str, Any]], path: Path) -> None:
    """Medians by run. Only ratios to a peer of the same run compare between machines."""
    pyplot = _plots()
    figure, axis = pyplot.subplots(figsize=(13, 5), layout="constrained")
    labels = [f"{line['commit']}\n{line['time'][5:16]}" for line in lines]
    for name in HISTORY_NAMES:
        points = [
            (at, line["figures"][name]["median"])
            for at, line in enumerate(lines)
            if name in line["figures"]
        ]
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", label=name)
    axis.set_xticks(range(len(labels)), labels, fontsize=7)
    axis.set_yscale("log")
    axis.set_ylabel("records/s")
    if axis.lines:
        axis.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{path.stem}" src="data:image/png;base64,{data}">'


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def cells(tag: str, row: tuple[str, ...]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

    return f"<table>{cells('th', head)}{''.join(cells('td', row) for row in rows)}</table>"


def write_html(line: dict[str, Any], pictures: list[Path], path: Path) -> None:
    budgets = [
        (
            row["budget"],
            row["what"],
            row["required"],
            row["figure"],
            "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
            row["verdict"],
            row["note"],
        )
        for row in line["budgets"]
    ]
    settings = [
        (name, peer["durability"], str(peer["processes"]), *setting)
        for name, peer in line["peers"].items()
        for setting in peer["settings"]
    ]
    figures = [
        (name, f"{entry['median']:,.4g}", entry["unit"], str(len(entry["values"])))
        for name, entry in sorted(line["figures"].items())
    ]
    machine = ", ".join(f"{key} {value}" for key, value in line["machine"].items())
    style = (
        "body{font:15px/1.4 sans-serif;margin:2em auto;max-width:1200px}img{max-width:100%}"
        "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:3px 8px;"
        "text-align:left}"
    )
    body = [
        f"<h1>Comparison, commit {html.escape(line['commit'])}, {line['time']}</h1>",
        f"<p>{html.escape(machine)}; {line['mode']}, {line['rounds']} rounds.</p>",
        "<h2>Budgets</h2>",
        _table(("id", "what", "budget", "figure", "ratio", "verdict", "note"), budgets),
        *(_image(picture) for picture in pictures),
        "<h2>Figures</h2>",
        _table(("figure", "median", "unit", "rounds"), figures),
        "<h2>Settings</h2>",
        _table(("system", "durability", "processes", "setting", "value", "why"), settings),
    ]
    page = f"<!doctype html><meta charset=utf-8><title>bench</title><style>{style}</style>"
    path.write_text(page + "".join(body))


def command(
    out: Annotated[Path | None, typer.Option(help="Folder; default .cache/report.")] = None,
) -> None:
    """Draw the last comparison and the history. Example: python -m bench report --out /tmp/r"""
    lines = history.read_lines(kind="compare")
    if not lines:
        typer.echo("error: no comparison yet; run: python -m bench compare --quick", err=True)
        raise typer.Exit(1)
    folder = out or cache_root() / "report"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [folder / "comparison.png", folder / "history.png"]
    draw_comparison(lines[-1], pictures[0])
    draw_history(lines, pictures[1])
    write_html(lines[-1], pictures, folder / "report.html")
    typer.echo(str(folder / "report.html"))
