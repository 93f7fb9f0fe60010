"""`logstore`: the command line. Exit status 0: done, 1: failed, 2: bad usage or settings."""

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import logstore
from coordinator.cli import (
    accesses,
    announce,
    append,
    cluster,
    copies,
    correlation,
    data,
    doctor,
    logs,
    moves,
    place,
    planner,
    profile,
    recover,
    reshape,
    serve,
    simulate,
    stats,
    verify,
    weight,
)
from coordinator.cli.checked import use_for_all
from coordinator.cli.choices import check_every
from coordinator.cli.common import one_loop
from coordinator.cli.failures import tell

app = typer.Typer(
    name="logstore",
    help="A keyed distributed log whose shards split, merge and move before the load arrives.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"logstore {logstore.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """What may stand before a command."""


for module in (serve, logs, append, data, accesses, cluster, stats, profile, announce, moves,
               place, planner, reshape, simulate, verify, recover, copies, doctor,
               weight, correlation):  # fmt: skip
    module.register(app)
check_every(app)
use_for_all(app)
_command = typer.main.get_command(app)
"""Run without typer's own handling of failures, which does not know our statuses."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Every failure is one line `error: …` on standard error (`failures`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # any stored bytes can be shown in any locale
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with one_loop(), _command.make_context("logstore", given) as context:
            _command.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except BaseException as e:
        status = tell(e)
        if isinstance(e, OSError):  # the rest of the output cannot be written: do not try again
            _drop_output()
        return status


def _drop_output() -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    raise SystemExit(main())
