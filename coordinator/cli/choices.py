"""Options that cannot both hold, as a table: no command drops one of them in silence.

Every command is made of `Checked`, which looks at what was given (on the command line or by the
environment, not defaults) before the command runs. Bounds of values that belong to each other, as
replicas and instances, are checked where the values are.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand

from logstore.base.errors import InvalidArgumentError

EXCLUSIVE: dict[str, tuple[tuple[str, str], ...]] = {
    "append": tuple(
        (one, "file") for one in ("key", "header", "timestamp", "expected_version")
    ),
    "read": (("key", "start"), ("key", "end")),
    "tail": (("key", "start"), ("key", "end"), ("offset", "from_start")),
    "create": (("from_history", "split_key"), ("from_history", "instance")),
    "move": (("dry_run", "watch"),),
    "migrations": (
        ("migration", "active"), ("story", "watch"), ("story", "active"),
    ),
    "split": (("at", "learned"),),
    "drain": (("cancel", "dry_run"),),
    "forecast": (("score", "horizon"),),
    "plan": (("view", "history"), ("view", "save_view")),
    "verify": (("shard", "journal"), ("journal", "deep")),
    "simulate": (("series", "events"),),
}  # fmt: skip
"""Command -> pairs of its parameters."""

NEEDS: dict[str, tuple[tuple[str, str], ...]] = {
    "read": (("offset", "shard"),),
    "tail": (("offset", "shard"),),
    "migrations": (("story", "migration"),),
    "verify": (("deep", "shard"),),
}
"""Command -> pairs: the first says nothing without the second."""

UP_DECIDES = (
    "data", "metadata", "kafka", "replicas", "host", "port", "listen", "instance", "coordinators",
)  # fmt: skip
"""Settings of processes that `up` gives itself: `--set` would reach only some of them."""


class Checked(TyperCommand):
    """A command that refuses what cannot both hold, naming both."""

    def invoke(self, ctx: Any) -> Any:
        check(self.name or "", ctx)
        return super().invoke(ctx)


def check(command: str, context: Any) -> None:
    """InvalidArgumentError for a pair of EXCLUSIVE that was given, or half a pair of NEEDS."""
    named = {p.name: _name(p) for p in context.command.params}
    given = {
        name
        for name, value in context.params.items()
        if context.get_parameter_source(name).name in ("COMMANDLINE", "ENVIRONMENT")
        and value not in (None, False, [], ())
    }
    for one, other in EXCLUSIVE.get(command, ()):
        if one in given and other in given:
            raise InvalidArgumentError(
                f"{named[one]} and {named[other]} exclude each other: give one of them"
            )
    for one, other in NEEDS.get(command, ()):
        if one in given and other not in given:
            raise InvalidArgumentError(f"{named[one]} is given without {named[other]}")


def check_every(app: typer.Typer) -> None:
    """Make every command of the app, and of its groups, a Checked one."""
    for command in app.registered_commands:
        command.cls = Checked
    for group in app.registered_groups:
        if group.typer_instance is not None:
            check_every(group.typer_instance)


def once(option: str, pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    """NAME=VALUE pairs of a repeatable option; a name that is given twice is refused."""
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidArgumentError(
                f"{option} gives {name} twice, as {found[name]!r} and as {value!r}"
            )
        found[name] = value
    return found


def apart(option: str, names: Iterable[str], flags: Sequence[tuple[str, str, bool]]) -> None:
    """Refuse a name in a NAME=VALUE option that a flag of its own decides.

    `flags`: name, its flag, and whether the flag was given; where it was not, the name may stand.
    """
    for name, flag, decides in flags:
        if decides and name in names:
            raise InvalidArgumentError(f"{option} {name}=… and {flag} exclude each other")


def _name(parameter: Any) -> str:
    """As a person writes it: `--dry-run`, or an argument's metavar."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return str(max(parameter.opts, key=len))
