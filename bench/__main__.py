"""`python -m bench ...`. A subcommand is a module with an `app` (a typer.Typer) or a `command`.

To add one: write `bench/<name>.py` with a function `command` (typer options as arguments, its
docstring is the help) and name it in COMMANDS; or a module with `app` and name it in GROUPS.
Modules load only when asked for, so `services down` does not import matplotlib.
"""

import importlib
import sys

import typer

GROUPS = {"services": "bench.services.cli"}
COMMANDS = {
    "append": "bench.append",
    "autopilot": "bench.autopilot",
    "compare": "bench.compare",
    "forecast": "bench.forecast",
    "forecast-table": "bench.forecast_table",
    "plan": "bench.planning",
    "profiler": "bench.profiler",
    "metadata": "bench.metadata",
    "migrate": "bench.migrate",
    "picture": "bench.picture",
    "report": "bench.report",
    "restart": "bench.restart",
}


def build(argv: list[str]) -> typer.Typer:
    """The application with the named subcommand loaded, or all of them for help."""
    app = typer.Typer(
        help="Services, workloads, comparisons and their history.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(lambda: None)
    wanted = next((word for word in argv if word in GROUPS or word in COMMANDS), None)
    for name, module in GROUPS.items():
        if wanted in (None, name):
            app.add_typer(importlib.import_module(module).app, name=name)
    for name, module in COMMANDS.items():
        if wanted in (None, name):
            app.command(name)(importlib.import_module(module).command)
    return app


def main() -> None:
    build(sys.argv[1:])()


if __name__ == "__main__":
    main()
