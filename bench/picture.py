"""`python -m bench picture`: the README picture, from a demo report and the flights it replayed."""

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from coordinator.local.flights import flight_events

DAYS = 3
START_US = 1_380_600_000_000_000
HOUR_US = 3_600_000_000


def command(
    report: Annotated[Path, typer.Option(help="What `make demo` wrote.")] = Path(
        "demo-report.json"
    ),
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("docs/heatmap.png"),
) -> None:
    """Draw shard x hour of the replay's first days, and each move where and when it happened.

    Example: python -m bench picture --report demo-report.json
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    demo = msgspec.json.decode(report.read_bytes())
    cuts = [b"", *(k.encode() for k in demo["shards"]["split_keys"])]
    events = flight_events(months=(10,))
    at_us = events["event_time_us"].to_numpy()
    shown = (at_us >= START_US) & (at_us < START_US + DAYS * 24 * HOUR_US)
    keys = np.array(events["key"].to_pylist(), dtype=object)[shown]
    shards = np.searchsorted(np.array(cuts, dtype=object), keys, side="right") - 1
    hours = (at_us[shown] - START_US) // HOUR_US
    grid = np.zeros((len(cuts), DAYS * 24))
    np.add.at(grid, (shards, hours), 1)

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(grid, aspect="auto", origin="lower", cmap="magma", interpolation="nearest")
    figure.colorbar(image, ax=axes, label="appends per hour")
    homes = demo["shards"]["first_instances"]
    names = [
        f"{i}: {c.decode() or '(first)'} · {h}"
        for i, (c, h) in enumerate(zip(cuts, homes, strict=True))
    ]
    axes.set_yticks(range(len(cuts)), names, fontsize=7)
    for move in demo["migrations"]:
        row, begin_h = int(move["shard"].split("/")[1]), move["begin_s"]
        cutover_h = move["crossing_s"] - move["lead_s"]
        axes.plot([begin_h, cutover_h], [row, row], color="cyan", lw=4)
        axes.annotate(
            f"{move['id']} to {move['target']}: there {move['lead_s']:.1f} h before the limit, "
            f"blackout {move['blackout_ms']:.1f} ms",
            (begin_h, row),
            textcoords="offset points",
            xytext=(0, 8),
            ha="left" if begin_h < DAYS * 12 else "right",
            color="cyan",
            fontsize=8,
        )
        axes.plot([move["crossing_s"]], [row], marker="|", color="red", ms=16, mew=2)
    axes.set_xlabel(
        "hour of the replay (1 October 2013 on); red: where the source would have been over"
    )
    figure.savefig(out, dpi=110)
    typer.echo(str(out))
