"""The planner's settings by name, changed one by one: `risk.threshold`, `hysteresis` …

What is not changed so: `mode` (the autopilot's switch) and `executable` (what the caller can do).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from sharder.config import PlannerConfig, RiskConfig
from sharder.plan import POLICIES
from sharder.settings import Limits, docstrings, limits_in

Value = float | int | str | tuple[str, ...] | None
"""What a setting may hold."""

RISK = "risk."
_FIXED = frozenset({"mode", "risk", "executable"})
_NONE = ("none", "null")


@dataclass(frozen=True, slots=True)
class Tunable:
    """One setting: its full name, type, limits and description."""

    name: str
    kind: Any
    limits: Limits
    says: str

    @property
    def bounds(self) -> str:
        """The legal values, in words."""
        if self.limits.choices:
            return ", ".join(self.limits.choices)
        none = " or none" if type(None) in get_args(self.kind) else ""
        if self.limits.interval is None:
            return "names, with commas" if _is_list(self.kind) else "text"
        low, high = self.limits.interval.ge, self.limits.interval.le
        return f"{low:g}..{high:g}{none}"


@functools.cache
def tunables() -> Mapping[str, Tunable]:
    """Every setting that can be changed, by its full name."""
    found = {}
    for owner, prefix in ((PlannerConfig, ""), (RiskConfig, RISK)):
        hints, said = get_type_hints(owner, include_extras=True), docstrings(owner)
        for field in fields(owner):
            if not prefix and field.name in _FIXED:
                continue
            hint = hints[field.name]
            annotated = get_origin(hint) is Annotated
            limits = limits_in(get_args(hint)[1:] if annotated else ())
            kind = get_args(hint)[0] if annotated else hint
            name = prefix + field.name
            found[name] = Tunable(name, kind, limits, said[field.name])
    return found


def tunable(name: str) -> Tunable:
    """The setting of a full name, or of a risk setting's last part; ValueError lists all."""
    known = tunables()
    found = known.get(name) or known.get(RISK + name)
    if found is None:
        raise ValueError(f"{name!r} is no setting of the planner, it has {', '.join(known)}")
    return found


def parsed(setting: Tunable, given: object) -> Value:
    """`given`, a value or its text, as a legal value; ValueError names setting, value, bounds."""
    value = _converted(setting, given)
    said = setting.limits.complaint(setting.name, value)
    if said is not None:
        raise ValueError(said)
    if setting.name == "policies":
        _check_policies(value)
    elif setting.name == "tiers" and not (value and all(value)):  # type: ignore[arg-type]
        raise ValueError(f"tiers is {given!r}, it must name at least 1 tier")
    if isinstance(value, tuple) and len(set(value)) != len(value):
        raise ValueError(f"{setting.name} is {given!r}, it must name each one once")
    return value


def value_of(config: PlannerConfig, setting: Tunable) -> Value:
    """The value that a configuration holds."""
    owner = config.risk if setting.name.startswith(RISK) else config
    value: Value = getattr(owner, setting.name.removeprefix(RISK))
    return value


def tuned(config: PlannerConfig, values: Mapping[str, object]) -> PlannerConfig:
    """`config` with the values of these settings; ValueError when they do not fit together."""
    known = tunables()
    legal = {name: parsed(known[name], value) for name, value in values.items()}
    risk = {n.removeprefix(RISK): v for n, v in legal.items() if n.startswith(RISK)}
    rest: dict[str, Any] = {n: v for n, v in legal.items() if not n.startswith(RISK)}
    return replace(config, risk=replace(config.risk, **risk), **rest)  # type: ignore[arg-type]


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _converted(setting: Tunable, given: object) -> Value:
    if isinstance(given, str):
        if _is_list(setting.kind):
            given = [part.strip() for part in given.split(",")] if given.strip() else []
        elif given.lower() in _NONE and type(None) in get_args(setting.kind):
            given = None
    try:
        value: Value = msgspec.convert(given, setting.kind, strict=not isinstance(given, str))
    except msgspec.ValidationError:
        unit = setting.limits.unit.strip("()")
        wanted = "names" if _is_list(setting.kind) else "whole" if _is_whole(setting) else "number"
        shape = {"names": "names with commas", "whole": "a whole number", "number": "a number"}
        legal = f" within {setting.bounds} {unit}".rstrip() if setting.limits.interval else ""
        raise ValueError(
            f"{setting.name} is {given!r}, it must be {shape[wanted]}{legal}"
        ) from None
    return value


def _is_whole(setting: Tunable) -> bool:
    return setting.kind is int or int in get_args(setting.kind)


def _check_policies(value: Value) -> None:
    known = sorted(POLICIES.keys() - {"drain"})
    for name in value or ():  # type: ignore[union-attr]
        if name not in known:
            raise ValueError(f"policies names {name!r}, it must be of {', '.join(known)}")
