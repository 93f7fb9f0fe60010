"""Settings that `up` passes on to the processes it starts, checked before any of them starts."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pydantic

from coordinator.config import CoordinatorConfig
from logstore.base.command_line import refusals
from logstore.base.errors import ConfigError


def coordinator_settings(given: Mapping[str, object], option: str = "--set") -> dict[str, object]:
    """`given` by name, None left out, as the coordinator's flags take them.

    ConfigError names the setting, its value and the limit.
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    known = set(CoordinatorConfig.model_fields)
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"{option} {name}: the coordinator has no such setting; it has "
                f"{', '.join(sorted(known))}"
            )
    try:
        CoordinatorConfig(**({"data": Path("data")} | wanted))  # type: ignore[arg-type]
    except pydantic.ValidationError as e:
        raise ConfigError(refusals(e)[0].replace("Value error, ", "")) from None
    return {name: _flag(value) for name, value in wanted.items()}


def _flag(value: object) -> object:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value
