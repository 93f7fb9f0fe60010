"""Flights as a load: each flight is an append at its scheduled departure, time compressed."""

from collections.abc import Iterable

import numpy as np
import pyarrow.compute as pc

from bench.workload.accesses import APPEND, Accesses
from coordinator.local.flights import ALL_MONTHS, flight_events


def flight_accesses(months: Iterable[int] = ALL_MONTHS, *, speed_up: float = 1.0) -> Accesses:
    """All departures of the months; `speed_up` 3600 plays an hour in a second."""
    if speed_up <= 0:
        raise ValueError(f"speed_up is {speed_up}, must be above 0")
    events = flight_events(months)
    at_us = events["event_time_us"].to_numpy()
    key = np.asarray(events["key"].to_pylist(), dtype=np.bytes_)
    size = pc.binary_length(events["value"]).to_numpy().astype(np.int64)
    time_s = (at_us - at_us[0]) / 1e6 / speed_up
    return Accesses(time_s, key, np.full(len(key), APPEND, dtype=np.uint8), size)
