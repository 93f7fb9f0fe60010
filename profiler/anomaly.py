"""Names for what is not normal: spike, level shift, outage. One detector a shard."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from river.drift import ADWIN

SCALE_FADE = 0.02
Z_MAX = 1e6


class AnomalyKind(StrEnum):
    SPIKE = "spike"
    LEVEL_SHIFT = "level_shift"
    OUTAGE = "outage"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """`score` is the distance from what was expected in mean deviations, signed."""

    slot: int
    kind: AnomalyKind
    value: float
    expected: float
    score: float


class AnomalyDetector:
    """Compares each value with what was expected of its slot.

    A value further off than `threshold` running mean deviations is a spike, or an outage when
    nothing came where more than that was expected. A level shift is a change of the mean
    of the deviations (ADWIN: Bifet and Gavaldà, 2007). Large deviations are clipped before they
    are learned, so an anomaly does not become the norm at once.
    """

    def __init__(self, threshold: float = 6.0, warm_slots: int = 24) -> None:
        self._threshold, self._warm_slots = threshold, warm_slots
        self._scale = 0.0
        self._seen = 0
        adwin: Any = ADWIN
        self._drift: Any = adwin(delta=0.001)

    def learn(self, slot: int, value: float, expected: float) -> Anomaly | None:
        """The anomaly that this value is, if any; an outage or spike goes before a shift."""
        error = value - expected
        scale = max(self._scale, 1e-3 * abs(expected), 1e-9)
        score = max(-Z_MAX, min(error / scale, Z_MAX))
        warm = self._seen >= self._warm_slots
        limit = self._threshold * scale
        clipped = max(-limit, min(error, limit)) if warm else error
        self._seen += 1
        rate = max(SCALE_FADE, 1.0 / self._seen)
        self._scale += rate * (abs(clipped) - self._scale)
        self._drift.update(max(-self._threshold, min(score, self._threshold)) if warm else 0.0)
        if not warm:
            return None
        kind: AnomalyKind | None = None
        if abs(score) > self._threshold:
            kind = AnomalyKind.OUTAGE if value == 0.0 else AnomalyKind.SPIKE
        elif self._drift.drift_detected:
            kind = AnomalyKind.LEVEL_SHIFT
        return None if kind is None else Anomaly(slot, kind, value, expected, score)
