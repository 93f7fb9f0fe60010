"""Does planning ahead pay on a live cluster? The same load with the autopilot on, off and reactive.

Three real instances with stated capacity are driven in an open loop by a flash crowd or by real
flights (an hour a second, after the history before them was learned). `reactive` makes the same
moves as the planner but sees only the present rates, so it acts when an instance is over its
threshold.

A second counts as over the SLO when the p99 of its operations is. Its cause is `overload` when an
instance refused operations at that time, else `move` when a move was under way, else `machine`:
no known cause in this store.
"""

import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.autopilot_run import MODES, RunFigures, Setup, crowd_setup, flights_setup, play
from bench.history import append_line, machine


def command(
    load: Annotated[str, typer.Option(help="crowd or flights.")] = "crowd",
    modes: Annotated[str, typer.Option(help="Which of on, off, reactive; with commas.")] = (
        "off,reactive,on"
    ),
    days: Annotated[int, typer.Option(help="Days of flights, 24 s each.")] = 4,
    slo_ms: Annotated[float, typer.Option(help="Bound of a second's p99, ms.")] = 250.0,
    seed: Annotated[int, typer.Option(help="Of the load and the shards' homes.")] = 1,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    history: Annotated[bool, typer.Option(help="Add the run to bench/history.jsonl.")] = True,
) -> None:
    """Seconds over the SLO with the autopilot on, off and with a reactive rule.

    Example: python -m bench autopilot --load flights --days 4 --json
    """
    wanted = [mode.strip() for mode in modes.split(",")]
    unknown = [mode for mode in wanted if mode not in MODES]
    if unknown or load not in ("crowd", "flights"):
        raise typer.BadParameter(f"modes are {', '.join(MODES)}, loads are crowd and flights")
    setup = crowd_setup(seed) if load == "crowd" else flights_setup(seed, days)
    found = {mode: asyncio.run(_one(setup, mode, slo_ms)) for mode in wanted}
    result: dict[str, Any] = {
        "load": load,
        "seed": seed,
        "slo_ms": slo_ms,
        "seconds": setup.seconds,
        "ops_per_s_max": setup.ops_per_s,
        "modes": {mode: figures.as_json() for mode, figures in found.items()},
        "machine": machine(),
    }
    if history:
        append_line("autopilot", result)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    for mode, figures in found.items():
        typer.echo(f"{mode:>9} " + "  ".join(f"{k} {v}" for k, v in figures.as_json().items()))


async def _one(setup: Setup, mode: str, slo_ms: float) -> RunFigures:
    folder = Path(tempfile.mkdtemp(prefix="logstore-autopilot-"))
    try:
        return await play(setup, mode, slo_ms, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
