"""`logstore`: the command line. Exit status 0: done, 1: failed, 2: bad usage or settings."""

import os
import sys
from collections.abc import Sequence

import typer

from coordinator.cli import (
    announce,
    cluster,
    data,
    logs,
    moves,
    profile,
    reshape,
    serve,
    simulate,
    verify,
)
from coordinator.cli.choices import check_every
from logstore.base.errors import ConfigError, InvalidArgumentError, LogstoreError

app = typer.Typer(
    name="logstore",
    help="A keyed distributed log whose shards split, merge and move before the load arrives.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (serve, logs, data, cluster, profile, announce, moves, reshape, simulate, verify):
    module.register(app)
check_every(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Every failure is one line `error: …` on standard error."""
    try:
        status = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()
        return int(status) if isinstance(status, int) else 0
    except SystemExit as e:  # the option parsers of `node` and `coordinator`
        return e.code if isinstance(e.code, int) else 1
    except (ConfigError, InvalidArgumentError) as e:
        return _fail(e.message, 2)
    except LogstoreError as e:
        return _fail(e.message, 1)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # the reader of a pipe has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as e:
        if hasattr(e, "format_message"):  # usage errors of the option parser
            hint = " (see --help)" if type(e).__name__ != "NoArgsIsHelpError" else ""
            return _fail(f"{e.format_message()}{hint}", 2)
        if isinstance(e, OSError):
            return _fail(str(e), 1)
        return _fail(f"{type(e).__name__}: {e}", 1)


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
