"""Settings of a process from its command line over its environment, by pydantic-settings.

Each field is one flag: `--copy-bytes-per-s` for `copy_bytes_per_s`. Lists take several values,
objects and tuples JSON.
"""

import argparse
import contextlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

import pydantic
from pydantic_settings import BaseSettings, CliApp, CliSettingsSource

S = TypeVar("S", bound=BaseSettings)

_NEVER = "\0"
"""Stands for None: no argument can hold a NUL."""


def from_command_line(
    settings: type[S], arguments: list[str], *, prog: str, description: str | None
) -> S:
    """The settings from `arguments` and the environment.

    pydantic.ValidationError on a value that is out of its limits (see `refusals`); SystemExit on
    `--help` (0) and on unknown arguments (2).
    """
    source: CliSettingsSource[Any] = CliSettingsSource(
        settings,
        root_parser=argparse.ArgumentParser(prog=prog, description=description),
        cli_kebab_case=True,
        cli_parse_none_str=_NEVER,
        add_argument_method=_add,
        parse_args_method=_parse,
    )
    return CliApp.run(settings, cli_args=arguments, cli_settings_source=source)


def refusals(error: pydantic.ValidationError) -> list[str]:
    """One line for each field that was refused: its name, its value and the limit."""
    own = (f for f in error.errors() if f["type"] != "default_factory_not_called")
    return [_refusal(dict(found)) for found in own]  # others follow from a refused one


def _refusal(found: dict[str, Any]) -> str:
    field = ".".join(str(part) for part in found["loc"])
    if found["type"] == "missing":  # the input is the whole input, with passwords
        return f"{field} is missing: {found['msg']}"
    return f"{field} is {found['input']!r}: {found['msg']}" if field else str(found["msg"])


def from_json(value: object) -> object:
    """A text that is JSON, decoded; any other value is left for the check of its field."""
    if isinstance(value, str):
        with contextlib.suppress(json.JSONDecodeError, RecursionError):
            return json.loads(value)
    return value


def json_or(empty: Callable[[], object]) -> Callable[[object], object]:
    """Like `from_json`, but null means an empty list or object."""

    def read(value: object) -> object:
        found = from_json(value)
        return empty() if found is None else found

    return read


def _add(parser: Any, *names: str, **how: Any) -> None:
    """The flag of one field. A name in capitals is its environment variable and no flag."""
    kind = how.pop("metavar", None)
    if kind == "bool":  # `--replace` alone means yes
        how |= {"nargs": "?", "const": "true"}
    if how.get("action") == "append":  # JSON in one value; the last one counts
        del how["action"]
    if how.get("nargs") == "*":
        how["nargs"] = "+"
    parser.add_argument(*(name for name in names if name.islower()), **how)


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Lists are written as JSON: pydantic-settings would split their values at commas, as in
    `etcd://a:1,b:1`."""
    found = vars(parser.parse_args(arguments))
    return argparse.Namespace(
        **{name: json.dumps(v) if isinstance(v, list) else v for name, v in found.items()}
    )
