"""Writes docs/reference/settings.md from the settings themselves; `--check` says if it is stale."""

import enum
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from annotated_types import Interval, MaxLen
from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from coordinator.config import CoordinatorConfig
from coordinator.migration.records import MoveOptions
from logstore.meta.records import LogOptions
from logstore.meta.settings import MetadataSettings
from logstore.node.config import NodeConfig
from sharder.config import PlannerConfig, RiskConfig
from sharder.placement import PlacementConfig
from sharder.settings import docstrings, limits_in
from sharder.simulate.cluster import Settings

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"

VARIABLES = {
    "LOGSTORE_ADDRESS": "Coordinator or instance that the commands ask, HOST:PORT, several with"
    " commas; `--address` goes before it.",
    "LOGSTORE_CACHE": "Folder of what benches and tests download; default: `.cache` of the"
    " checkout, else `XDG_CACHE_HOME` or `~/.cache`.",
    "LOGSTORE_DEBUG": "Other than empty and 0: a command that fails shows the trace.",
    "LOGSTORE_ETCD_IMAGE": "Image of the etcd that benches and tests run in Docker.",
    "LOGSTORE_FORECAST_CACHE": "Folder of learned forecasts of `logstore simulate`; `--cache` goes"
    " before it.",
    "LOGSTORE_KAFKA_IMAGE": "Image of the Kafka that benches and tests run in Docker.",
    "LOGSTORE_NO_INSTALL": "Other than empty and 0: benches and tests get no services by"
    " themselves.",
    "LOGSTORE_SERVICE_RUN": "Set by benches and tests for the processes that they start, to find"
    " them again; not to be set by hand.",
    "LOGSTORE_TEST_ETCD": "etcd that benches and tests use instead of one of their own.",
    "LOGSTORE_TEST_KAFKA": "Kafka that benches and tests use instead of one of their own.",
    "LOGSTORE_TEST_NATS": "NATS server that benches use instead of one of their own.",
    "LOGSTORE_TEST_REDIS": "Redis that benches use instead of one of their own.",
    "LOGSTORE_USE_PROXY": "1: members are reached through the proxy of the environment.",
}
"""Environment names that are not settings of a process, with their effect."""

HEAD = """\
# Settings

Written by `python -m coordinator.settings_reference` from the fields themselves; `make check`
proves it fresh. A flag goes before its environment name, and that before the default. A value out
of its bounds is refused at the start, in one line with the setting, the value and the bound.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One setting as the page shows it."""

    name: str
    unit: str
    default: str
    bounds: str
    says: str
    flag: str = ""
    variables: tuple[str, ...] = ()


def page() -> str:
    """The whole page."""
    shared = set(MetadataSettings.model_fields)
    parts = [
        HEAD,
        _section(
            "An instance", "`logstore node`, `python -m logstore.node.main`. A list takes several"
            " values behind its flag, and is JSON in the environment; a yes-or-no flag alone says"
            " yes.",
            process_rows(NodeConfig, shared),
        ),
        _section(
            "A coordinator", "`logstore coordinator`, `python -m coordinator.main`; `logstore up"
            " --set NAME=VALUE` passes one on.",
            process_rows(CoordinatorConfig, shared),
        ),
        _section(
            "Login and TLS towards etcd", "Of both; `*` is `NODE` or `COORDINATOR`.",
            [_shared(row) for row in process_rows(NodeConfig) if row.name in shared],
        ),
        _section(
            "A move", "`logstore move … --option NAME=VALUE`; those of planned moves: the"
            " coordinator's setting `move`.",
            dataclass_rows(MoveOptions),
        ),
        _section(
            "A log", "`logstore log create … --option NAME=VALUE`, `create_log(…, NAME=VALUE)`.",
            dataclass_rows(LogOptions),
        ),
        _section(
            "The planner", "`logstore planner set NAME=VALUE` while it runs, for the next"
            " plan and after every restart; `planner reset NAME` ends that. A value that is set so"
            " goes before the coordinator's own settings `threshold`, `seed`, `horizon_slots`,"
            " `hysteresis`, `cooldown_s`, `flip_back_s`, `margin_periods` and `moves_max`"
            " (`operators_in_flight_max`), and those before the defaults here. `mode` is"
            " `logstore autopilot`; `executable` follows from what the coordinator carries out; a"
            " coordinator leaves out the policy `drain`.",
            dataclass_rows(PlannerConfig),
        ),
        _section(
            "The planner's risk", "`logstore planner set risk.NAME=VALUE`, as above.",
            dataclass_rows(RiskConfig),
        ),
        _section(
            "Placement of new keys", "`sharder.placement.PlacementConfig`, for balanced logs.",
            dataclass_rows(PlacementConfig),
        ),
        _section(
            "A simulated cluster", "`sharder.simulate.cluster.Settings`; `logstore simulate` has"
            " flags for `instances`, `capacity`, `slot_s`, `move_slots` and `seed`.",
            dataclass_rows(Settings),
        ),
        _variables(VARIABLES),
    ]  # fmt: skip
    return "\n".join(parts)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory_takes_validated_data:  # from other settings: the text says which
        return "derived"
    return _shown(field.get_default(call_default_factory=True))


def process_rows(settings: type[MetadataSettings], without: set[str] = frozenset()) -> list[Row]:  # type: ignore[assignment]
    """The settings of one process, those of `without` left out."""
    prefix = settings.model_config.get("env_prefix", "")
    rows = []
    for name, field in settings.model_fields.items():
        if name in without:
            continue
        rows.append(
            Row(
                name,
                limits_in(tuple(field.metadata)).unit,
                _default(field),
                _bounds(field.annotation, field.metadata),
                _line(field.description or ""),
                f"--{name.replace('_', '-')}",
                _names(field, f"{prefix}{name.upper()}"),
            )
        )
    return rows


def dataclass_rows(settings: type) -> list[Row]:
    """The settings that are fields of a dataclass."""
    hints, said = get_type_hints(settings, include_extras=True), docstrings(settings)
    rows = []
    for field in fields(settings):
        hint = hints[field.name]
        metadata = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        kind = get_args(hint)[0] if metadata else hint
        default = _shown(field.default) if field.default is not MISSING else "required"
        if field.default_factory is not MISSING:
            default = "empty" if field.default_factory is dict else "see there"
        unit = limits_in(metadata).unit.strip("()")
        rows.append(Row(field.name, unit, default, _bounds(kind, metadata), said[field.name]))
    return rows


def _names(field: FieldInfo, own: str) -> tuple[str, ...]:
    alias = field.validation_alias
    if not isinstance(alias, AliasChoices):
        return (own,)
    return tuple(str(choice) for choice in alias.choices if str(choice).isupper())


def _shared(row: Row) -> Row:
    names = tuple(name.replace("_NODE_", "_*_") for name in row.variables)
    return Row(row.name, row.unit, row.default, row.bounds, row.says, row.flag, names)


def _line(text: str) -> str:
    return " ".join(text.split())


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 and value.is_integer() else f"{value:g}"
    if isinstance(value, tuple | list):
        return ", ".join(str(item) for item in value) or "empty"
    if isinstance(value, dict):
        return "empty"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _bounds(kind: Any, metadata: Any) -> str:
    """The legal values, in words."""
    limits = limits_in(tuple(metadata))
    if limits.choices:
        return ", ".join(limits.choices)
    if limits.interval is not None:
        return _span(limits.interval)
    for found in metadata:
        if isinstance(found, MaxLen):
            return f"at most {found.max_length:,} characters"
        if pattern := getattr(found, "pattern", None):
            return f"`{pattern}`".replace("|", "\\|")
    for one in _members(kind):
        if one is bool:
            return "yes or no"
        if isinstance(one, type) and issubclass(one, enum.Enum):
            return ", ".join(str(member.value) for member in one)
    return ""


def _members(kind: Any) -> Iterator[Any]:
    if get_origin(kind) in (Union, types.UnionType):
        for one in get_args(kind):
            yield from _members(one)
    else:
        yield kind


def _span(interval: Interval) -> str:
    low, high = interval.ge, interval.le
    if interval.gt is not None:
        above = f"above {_shown(interval.gt)}"
        return above if high is None else f"{above}, at most {_shown(high)}"
    return f"at least {_shown(low)}" if high is None else f"{_shown(low)} to {_shown(high)}"


def _section(title: str, says: str, rows: list[Row]) -> str:
    named = any(row.flag for row in rows)
    head = ["setting", "unit", "default", "bounds", "what it does"]
    if named:
        head[1:1] = ["flag", "environment"]
    lines = [f"## {title}", "", says, "", _cells(head), _cells(["---"] * len(head))]
    for row in rows:
        cells = [f"`{row.name}`", row.unit, row.default, row.bounds, row.says]
        if named:
            cells[1:1] = [f"`{row.flag}`", ", ".join(f"`{name}`" for name in row.variables)]
        lines.append(_cells(cells))
    return "\n".join([*lines, ""])


def _variables(variables: Mapping[str, str]) -> str:
    lines = ["## Environment of commands, benches and tests", ""]
    lines += [_cells(["environment", "what it does"]), _cells(["---", "---"])]
    lines += [_cells([f"`{name}`", says]) for name, says in sorted(variables.items())]
    return "\n".join([*lines, ""])


def _cells(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or with `--check` tell whether it is fresh: 0 yes, 1 no."""
    made = page()
    if "--check" in (sys.argv[1:] if arguments is None else arguments):
        fresh = PAGE.exists() and PAGE.read_text() == made
        if not fresh:
            print(f"{PAGE.name} is stale: run python -m coordinator.settings_reference")
        return 0 if fresh else 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
