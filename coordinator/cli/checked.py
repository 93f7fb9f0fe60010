"""Checks of all options and arguments, before a command runs.

Each value passes them, whatever its command does with it: text is UTF-8, printable, not empty
where it names something, and bounded; a number is finite and fits 64 bits (its own bounds stand at
the option); the operating system accepts a path.
"""

import os
from pathlib import Path
from typing import Any, get_args

import typer
from typer.core import TyperCommand

from logstore.base.address import shown
from logstore.base.errors import InvalidArgumentError, LimitExceededError

TEXT_BYTES_MAX = 64 * 1024
"""Limit of one text option: enough for 1,024 addresses. Keys and values are bytes with limits
of their own."""
PATH_BYTES_MAX = 4_096
INT_MAX = 2**63 - 1
INT_MIN = -(2**63)


class ChecksValues:
    """Base of a command's class: its values are checked before it runs."""

    params: list[Any]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Checks that need the typed text: numbers and their bounds, and an empty path,
        which would be the working directory as a Path."""
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))  # type: ignore[attr-defined]
        for parameter in self.params:
            for text in _listed(given.get(parameter.name)):
                if isinstance(text, str):
                    _check_typed(parameter, text)
        return super().parse_args(ctx, args)  # type: ignore[misc,no-any-return]

    def invoke(self, ctx: Any) -> Any:
        for parameter in self.params:
            for item in _listed(ctx.params.get(parameter.name)):
                check(_name(parameter), item, may_be_empty=parameter.default == "")
        return super().invoke(ctx)  # type: ignore[misc]


def kind(parameter: Any) -> type:
    """The type of a parameter's values: int, float, str, bytes, bool or Path; of a list, its
    items."""
    annotation = parameter.type_descriptor.annotation
    found: type = (get_args(annotation) or (annotation,))[0]
    return found


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def use_for_all(app: typer.Typer) -> None:
    """Check the values of every command of the app, and of its groups."""
    for command in app.registered_commands:
        command.cls = type("Checked", (ChecksValues, command.cls or TyperCommand), {})
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


def _check_typed(parameter: Any, text: str) -> None:
    """One typed value of a number or a path."""
    found, name = kind(parameter), _name(parameter)
    if found is Path and not text:
        raise InvalidArgumentError(f"{name} is empty")
    if found not in (int, float):
        return
    try:
        value = found(text)
    except ValueError:
        what = "a whole number" if found is int else "a number"
        raise InvalidArgumentError(f"{name} is {shown(text)}, it must be {what}") from None
    info = parameter.type_descriptor.parameter_info
    low, high = info.min, info.max
    if (low is None or value >= low) and (high is None or value <= high):
        return
    limit = f"at least {low}" if high is None else f"at most {high}" if low is None else ""
    raise InvalidArgumentError(f"{name} is {_cut(text)}, it must be {limit or f'{low} to {high}'}")


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
    """The name as typed: `--limit`, `LOG`."""
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name.upper())
