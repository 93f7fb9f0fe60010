"""Every end of a command, as an exit status and one sentence: one module for all commands.

0: done (also when the reader of our output is gone), 1: failed, 2: bad usage or settings,
130: stopped by Ctrl-C. An unexpected failure is named as one, without internal words;
LOGSTORE_DEBUG=1 shows where it came from.
"""

import errno
import os
import sys
import traceback

import grpc.aio
import typer

from logstore.base.errors import ConfigError, InvalidArgumentError, LogstoreError
from logstore.proto.status import from_rpc

DEBUG = "LOGSTORE_DEBUG"
MESSAGE_CHARS_MAX = 2_000
UNFORESEEN = (
    "the command failed unexpectedly, and may have done a part of its work; "
    f"run it again with {DEBUG}=1 to see where, and report it"
)
Ending = tuple[int, str | None]


def ending(error: BaseException) -> Ending:
    """The exit status and the sentence for a command's exception; None: no sentence."""
    if isinstance(error, SystemExit):  # the option parsers of `node` and `coordinator`
        return (error.code if isinstance(error.code, int) else 1), None
    if isinstance(error, typer.Exit):
        return error.exit_code, None
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return 130, None
    if isinstance(error, grpc.aio.AioRpcError):
        error = from_rpc(error)
    if isinstance(error, ConfigError | InvalidArgumentError):
        return 2, error.message
    if isinstance(error, LogstoreError):
        return 1, error.message
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, MemoryError):
        return 1, "there is not enough memory for this; ask for less at once"
    if isinstance(error, RecursionError):
        return 2, "the input is nested too deeply"
    if hasattr(error, "format_message"):  # usage errors of the option parser
        hint = " (see --help)" if type(error).__name__ != "NoArgsIsHelpError" else ""
        return 2, f"{error.format_message()}{hint}"
    return 1, UNFORESEEN


def tell(error: BaseException) -> int:
    """Print the sentence as one line `error: …` on standard error; returns the exit status."""
    status, message = ending(error)
    if message is not None:
        print(f"error: {one_line(message)}", file=sys.stderr)
    if message is not None and debugging():
        traceback.print_exception(error, file=sys.stderr)
    return status


def debugging() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def one_line(message: str) -> str:
    """Printable, on one line, and short enough to read."""
    line = " ".join(message.split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else _escaped(c) for c in line)
    if len(line) > MESSAGE_CHARS_MAX:
        half = MESSAGE_CHARS_MAX // 2
        line = f"{line[:half]} … {line[-half:]}"
    return line


def _escaped(character: str) -> str:
    return ascii(character)[1:-1]


def _of_system(error: OSError) -> Ending:
    if (
        isinstance(error, BrokenPipeError) or error.errno == errno.EPIPE
    ):  # the reader of our output is gone, as with `head`
        return 0, None
    what = error.strerror or "input/output error"
    if error.filename is None:
        return 1, f"the system refused: {what}"
    return 1, f"{os.fsencode(str(error.filename)).decode('utf-8', 'backslashreplace')}: {what}"
