"""The simulator's queueing model compared with a real run in which nothing moved.

The offered load of each instance in each second is known, so the model (sharder.simulate.measure)
gives a p95 for each; the run measured one. Two parameters are fitted to the run: the time to serve
an operation on an idle instance, from the seconds under half of the capacity; and the share of the
stated capacity that is usable before clients wait for each other's retries, in steps of 1/20.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from sharder.simulate.cluster import Settings
from sharder.simulate.measure import response_p95_ms

Floats = npt.NDArray[np.float64]
QUIET_SHARE = 0.5
SAMPLES_MIN = 5
"""Least operations of a second and instance for a p95."""
USABLE = tuple(n / 20 for n in range(10, 21))
CLIENT_QUEUE_S = 60.0
"""A client gives up an operation that waits longer."""


def compare(
    at_s: Floats,
    latency_ms: Floats,
    instance: npt.NDArray[np.int64],
    capacity: float,
    slo_ms: float,
) -> dict[str, Any]:
    """`at_s`: when each operation was due, `instance`: where its shard is; NaN: not answered."""
    seconds, instances = int(at_s.max()) + 1, int(instance.max()) + 1
    second = at_s.astype(np.int64)
    loads = np.zeros((seconds, instances))
    np.add.at(loads, (second, instance), 1.0)
    measured = np.full((seconds, instances), np.nan)
    waited = np.where(np.isnan(latency_ms), 1e3 * CLIENT_QUEUE_S, latency_ms)
    for t in range(seconds):
        for k in range(instances):
            here = waited[(second == t) & (instance == k)]
            if len(here) >= SAMPLES_MIN:
                measured[t, k] = np.percentile(here, 95)
    used = loads / capacity
    quiet = (used < QUIET_SHARE) & ~np.isnan(measured)
    idle = measured[quiet] * (1.0 - used[quiet]) / math.log(20.0)
    service_ms = float(np.median(idle)) if idle.size else 0.5
    known = ~np.isnan(measured)
    over = (measured > slo_ms) & known

    def predicted(usable: float) -> Floats:
        settings = Settings(
            instances, usable * capacity, 1.0, service_ms=service_ms, queue_s_max=CLIENT_QUEUE_S,
            slo_ms=slo_ms,
        )  # fmt: skip
        return response_p95_ms(loads, settings)

    wrong = {u: int(((predicted(u) > slo_ms) & known != over).sum()) for u in USABLE}
    usable = min(reversed(USABLE), key=lambda u: wrong[u])
    said = predicted(usable)
    over_predicted = (said > slo_ms) & known
    waits = over & over_predicted
    return {
        "service_ms": round(service_ms, 2),
        "usable_share": usable,
        "instance_seconds": int(known.sum()),
        "over_slo_measured": int(over.sum()),
        "over_slo_predicted_uncalibrated": int(((predicted(1.0) > slo_ms) & known).sum()),
        "over_slo_predicted": int(over_predicted.sum()),
        "over_slo_both": int(waits.sum()),
        "agree_share": round(float((over == over_predicted)[known].mean()), 3),
        "predicted_to_measured_p95_when_over": (
            round(float(np.median(said[waits] / measured[waits])), 3) if waits.any() else None
        ),
        "predicted_to_measured_p95_when_quiet": (
            round(float(np.median(said[quiet] / measured[quiet])), 3) if quiet.any() else None
        ),
    }
