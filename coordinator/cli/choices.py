"""Options that exclude each other, as a table: no command ignores one of them.

Every command is checked before it runs: the values from the command line or the
environment, not the defaults. Bounds between values, such as
replicas and instances, are checked where the values are used.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperCommand

from logstore.base.errors import InvalidArgumentError


def _forms(*keys: str) -> tuple[str, ...]:
    """The parameters of these keys: as text, in hexadecimal and in base64."""
    return tuple(f"{key}{form}" for key in keys for form in ("", "_hex", "_base64"))


_ONE_KEY_OR_SEVERAL = tuple(
    (one, several) for one in _forms("key") for several in _forms("start", "end")
)

EXCLUSIVE: dict[str, tuple[tuple[str, str], ...]] = {
    "append": (
        *(
            (one, "file")
            for one in (
                *_forms("key"), "value_base64", "header", "timestamp", "expected_version",
            )
        ),
        ("resume", "resume_from"),
    ),
    "read": _ONE_KEY_OR_SEVERAL,
    "accesses": _ONE_KEY_OR_SEVERAL,
    "tail": (*_ONE_KEY_OR_SEVERAL, ("offset", "from_start")),
    "create": (
        *(("from_history", other) for other in (*_forms("split_key"), "instance")),
        *(("sample", other) for other in (*_forms("split_key"), "from_history", "alphabet")),
        *(("alphabet", other) for other in (*_forms("split_key"), "from_history")),
    ),
    "move": (("dry_run", "watch"),),
    "migrations": (
        ("migration", "active"), ("story", "watch"), ("story", "active"),
    ),
    "split": tuple((at, "learned") for at in _forms("at")),
    "drain": (("cancel", "dry_run"),),
    "forecast": (("score", "horizon"),),
    "plan": (("view", "history"), ("view", "save_view")),
    "verify": (("shard", "journal"), ("journal", "deep")),
    "simulate": (("series", "events"),),
}  # fmt: skip
"""Command -> pairs of its parameters."""

NEEDS: dict[str, tuple[tuple[str, str], ...]] = {
    "append": (("resume", "file"), ("resume_from", "file"), ("unknown", "resume")),
    "read": (("offset", "shard"),),
    "create": (("sample", "shards"), ("alphabet", "shards")),
    "tail": (("offset", "shard"),),
    "migrations": (("story", "migration"),),
    "verify": (("deep", "shard"),),
}
"""Command -> pairs: the first has no effect without the second."""

UP_DECIDES = (
    "data", "metadata", "kafka", "replicas", "host", "port", "listen", "instance", "coordinators",
)  # fmt: skip
"""Settings of processes that `up` sets itself: `--set` would reach only some of them."""

OWN_FLAG: dict[str, dict[str, dict[str, str | None]]] = {
    "create": {
        "option": {
            "partitioner": None, "shards": None, "split_key": None, "split_keys": None,
            "instances": None, "changefeed": "changefeed",
        }
    },
    "move": {"option": {"feed": "feed"}},
    "up": {
        "setting": {
            **dict.fromkeys(UP_DECIDES),
            "planning_period_s": "planning_period_s", "cells": "cells", "autopilot": "autopilot",
        }
    },
}  # fmt: skip
"""Command -> its repeatable NAME=VALUE option -> a name that a flag sets -> that parameter. The
name is allowed while the flag is not given; None: never."""

PAIRED = ("header", "option", "setting")
"""Repeatable NAME=VALUE options: a name is given once."""


def check_every(app: typer.Typer) -> None:
    """Make every command of the app, and of its groups, one that is checked before it runs."""
    for command in app.registered_commands:
        command.cls = _checked(command.cls or TyperCommand)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            check_every(group.typer_instance)


def _checked(base: type[TyperCommand]) -> type[TyperCommand]:
    class Chosen(base):  # type: ignore[valid-type, misc]
        """A command that refuses options that exclude each other, naming both."""

        def invoke(self, ctx: Any) -> Any:
            check(self.name or "", ctx)
            return super().invoke(ctx)

    return Chosen


def check(command: str, context: Any) -> None:
    """InvalidArgumentError for a given pair of EXCLUSIVE, half a pair of NEEDS, a name of
    PAIRED that is given twice, or one that OWN_FLAG assigns to a flag."""
    named = {p.name: _name(p) for p in context.command.params}
    given = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name).name in ("COMMANDLINE", "ENVIRONMENT")
        and not (value is None or value is False or value in ([], ()))  # 0 and b"" are values
    }
    for one, other in EXCLUSIVE.get(command, ()):
        if one in given and other in given:
            raise InvalidArgumentError(
                f"{named[one]} and {named[other]} exclude each other: give one of them"
            )
    for one, other in NEEDS.get(command, ()):
        if one in given and other not in given:
            raise InvalidArgumentError(f"{named[one]} is given without {named[other]}")
    for option in PAIRED:
        names = _names(named.get(option, ""), given.get(option, ()))
        _check_flags(command, option, names, given, named)


def _names(option: str, pairs: Sequence[str | bytes]) -> set[str]:
    """The names of NAME=VALUE pairs; one that is given twice is refused."""
    found: dict[str, str] = {}
    for pair in pairs:
        text = pair.decode("utf-8", "backslashreplace") if isinstance(pair, bytes) else pair
        name, _, value = text.partition("=")
        if name in found:
            raise InvalidArgumentError(
                f"{option} gives {name} twice, as {found[name][:80]} and as {value[:80]}"
            )
        found[name] = value
    return set(found)


def _check_flags(
    command: str, option: str, names: set[str], given: Mapping[str, Any], named: Mapping[str, str]
) -> None:
    for name, flag in OWN_FLAG.get(command, {}).get(option, {}).items():
        if name in names and (flag is None or flag in given):
            own = named.get(flag or name, f"--{name.replace('_', '-')}")
            raise InvalidArgumentError(
                f"{named[option]} {name}=… and {own} exclude each other: {own} decides it"
            )


def _name(parameter: Any) -> str:
    """The name as typed: `--dry-run`, or an argument's metavar."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return str(max(parameter.opts, key=len))
