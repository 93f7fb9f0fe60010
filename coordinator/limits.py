"""Bounds shared by a setting, a flag of `logstore up` and a cluster on one machine."""

from typing import Any

from annotated_types import Interval

from logstore.base.address import PORT_MAX
from logstore.base.limits import REPLICAS_MAX

PORT = Interval(ge=0, le=PORT_MAX)
CELLS_MAX = 64
CELLS = Interval(ge=1, le=CELLS_MAX)
REPLICAS = Interval(ge=1, le=REPLICAS_MAX)
PLANNING_PERIOD_S = Interval(ge=1, le=3600)
INSTANCES = Interval(ge=1, le=64)
"""Of a cluster on one machine."""
COORDINATORS = Interval(ge=1, le=8)
"""Of a cluster on one machine."""


def span(interval: Interval | None) -> dict[str, Any]:
    """The bounds as typer's options take them."""
    return {"min": interval.ge, "max": interval.le} if interval is not None else {}
