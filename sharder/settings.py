"""Settings that are fields of a frozen dataclass: bound, unit and choices stand at the field.

Write `x_s: Annotated[float, Interval(ge=0, le=60), Unit("s")] = 1.0` and a docstring below it.
Settings of processes (pydantic) have the same form; `coordinator.settings_reference` reads both.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Interval, Unit


@dataclass(frozen=True, slots=True)
class OneOf:
    """The texts that a field may hold."""

    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits in a field's annotation, beside its type."""

    interval: Interval | None
    unit: str
    choices: tuple[str, ...]

    def complaint(self, name: str, value: Any) -> str | None:
        """The limit that a value breaks, as a sentence with name, value, limit and unit; None: it
        fits."""
        if self.choices and value not in self.choices:
            return f"{name} is {value!r}, it must be one of {', '.join(self.choices)}"
        if self.interval is None or value is None:
            return None
        if isinstance(value, Mapping):
            said = (self.complaint(f"{name}.{key}", item) for key, item in value.items())
            return next((text for text in said if text is not None), None)
        low, high = self.interval.ge, self.interval.le
        if low <= value <= high:
            return None
        return f"{name} is {value}, it must be within {low:g}..{high:g} {self.unit}".rstrip()


@functools.cache
def limits_of(settings: type[Any]) -> dict[str, Limits]:
    """Every field of a dataclass that has a bound, a unit or choices."""
    found = {}
    for name, hint in get_type_hints(settings, include_extras=True).items():
        if get_origin(hint) is Annotated:
            found[name] = limits_in(get_args(hint)[1:])
    return found


def limits_in(metadata: tuple[object, ...]) -> Limits:
    """The limits among the annotations of one field."""
    interval = next((m for m in metadata if isinstance(m, Interval)), None)
    unit = next((m.unit for m in metadata if isinstance(m, Unit)), "")
    choices = next((m.choices for m in metadata if isinstance(m, OneOf)), ())
    return Limits(interval, unit, choices)


def complaint(values: Any) -> str | None:
    """The first field out of its limits, as a sentence; None: all fit."""
    kind: Any = type(values)
    for name, limits in limits_of(kind).items():
        said = limits.complaint(name, getattr(values, name))
        if said is not None:
            return said
    return None


def docstrings(settings: type) -> dict[str, str]:
    """The docstring below each field of a class, on one line; empty where there is none."""
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(settings))).body
    assert isinstance(found, ast.ClassDef)
    said: dict[str, str] = {}
    name = ""
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            said[name] = ""
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            said[name], name = " ".join(str(node.value.value).split()), ""
        else:
            name = ""
    return said
