"""What all options and arguments have in common, checked before a command runs.

Each value passes here, whatever its command does with it: text is UTF-8, printable, not empty
where it names something, and bounded; a number is finite and fits 64 bits (its own bounds stand at
the option); a path can be given to the system.
"""

import os
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from logstore.base.errors import InvalidArgumentError, LimitExceededError

TEXT_BYTES_MAX = 64 * 1024
"""Of one text option: enough for 1,024 addresses. Keys and values are bytes with limits of their
own."""
PATH_BYTES_MAX = 4_096
INT_MAX = 2**63 - 1
INT_MIN = -(2**63)


class Checked(TyperCommand):
    """A command whose values are checked."""

    def invoke(self, ctx: Any) -> Any:
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            for item in value if isinstance(value, list | tuple) else [value]:
                check(_name(parameter), item, may_be_empty=parameter.default == "")
        return super().invoke(ctx)


def use_for_all(app: typer.Typer) -> None:
    """Make every command of the app, and of its groups, a Checked one."""
    for command in app.registered_commands:
        command.cls = Checked
    for group in app.registered_groups:
        if group.typer_instance is not None:
            use_for_all(group.typer_instance)


def check(name: str, value: object, *, may_be_empty: bool = False) -> None:
    """InvalidArgumentError that names the option, the value and the limit."""
    if isinstance(value, bool | bytes) or value is None:
        return
    if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
        raise InvalidArgumentError(f"{name} is {_cut(str(value))}, the limit is 64 bits")
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise InvalidArgumentError(f"{name} is {value}, it must be a finite number")
    if isinstance(value, Path):
        _check_path(name, value)
    elif isinstance(value, str):
        _check_text(name, value, may_be_empty)


def _check_text(name: str, value: str, may_be_empty: bool) -> None:
    if not value and not may_be_empty:
        raise InvalidArgumentError(f"{name} is empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{name} is {_cut(ascii(value))}, which is not UTF-8") from None
    if size > TEXT_BYTES_MAX:
        raise LimitExceededError.of(name, size, TEXT_BYTES_MAX, "bytes")
    if not value.isprintable():
        odd = next(c for c in value if not c.isprintable())
        raise InvalidArgumentError(
            f"{name} is {_cut(ascii(value))}, which holds the unprintable character {odd!a}"
        )


def _check_path(name: str, value: Path) -> None:
    size = len(os.fsencode(value))
    if size > PATH_BYTES_MAX:
        raise LimitExceededError.of(name, size, PATH_BYTES_MAX, "bytes")
    if "\0" in str(value):
        raise InvalidArgumentError(f"{name} is {_cut(ascii(str(value)))}, a path holds no NUL")


def _cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"


def _name(parameter: Any) -> str:
    """As a person gives it: `--limit`, `LOG`."""
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name.upper())
