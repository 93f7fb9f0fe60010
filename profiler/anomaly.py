"""Names of anomalies: spike, level shift, outage. One detector a shard."""

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCALE_FADE = 0.02
Z_MAX = 1e6
WATCHED_MAX = 2_000
KEPT_MAX = 1_000


class AnomalyKind(StrEnum):
    SPIKE = "spike"
    LEVEL_SHIFT = "level_shift"
    OUTAGE = "outage"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """`score` is the distance from the expected value in mean deviations, signed."""

    slot: int
    kind: AnomalyKind
    value: float
    expected: float
    score: float


def load_adwin() -> Any:
    """river's ADWIN. The first call imports river and scipy: most of a second of CPU."""
    # Not above: commands and simulations need only the names of anomalies.
    from river.drift import ADWIN

    return ADWIN


class AnomalyDetector:
    """Compares each value with the one that was expected for its slot.

    A value further off than `threshold` running mean deviations is a spike, or an outage if it is
    0 where more than that was expected. A level shift is a change of the mean
    of the deviations (ADWIN: Bifet and Gavaldà, 2007). Large deviations are clipped before they
    are learned, so an anomaly does not become the norm at once.
    """

    def __init__(self, threshold: float = 6.0, warm_slots: int = 24) -> None:
        self._threshold, self._warm_slots = threshold, warm_slots
        self._scale = 0.0
        self._seen = 0
        self._drift = load_adwin()(delta=0.001)

    def learn(self, slot: int, value: float, expected: float) -> Anomaly | None:
        """The anomaly of this value, if any; an outage or spike comes before a shift."""
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


class AnomalyBook:
    """The detectors of many shards, and the newest anomalies of them all.

    Bounded: `watched_max` shards, the first ones seen, and `kept_max` anomalies. `counts`:
    anomalies of each kind; `unwatched`: shards of the newest slot beyond the bound.
    """

    def __init__(self, watched_max: int = WATCHED_MAX, kept_max: int = KEPT_MAX) -> None:
        self._watched_max = watched_max
        self._detectors: dict[str, AnomalyDetector] = {}
        self._newest: deque[tuple[str, Anomaly]] = deque(maxlen=kept_max)
        self.counts: Counter[AnomalyKind] = Counter()
        self.unwatched = 0

    def learn(
        self,
        slot: int,
        shards: Sequence[str],
        values: Sequence[float],
        expected: NDArray[np.float64],
    ) -> None:
        """One slot of many shards; a shard without an expected value (nan) is not judged."""
        self.unwatched = 0
        for shard, value, said in zip(shards, values, expected.tolist(), strict=True):
            if math.isnan(said):
                continue
            detector = self._detectors.get(shard)
            if detector is None:
                if len(self._detectors) >= self._watched_max:
                    self.unwatched += 1
                    continue
                detector = self._detectors[shard] = AnomalyDetector()
            found = detector.learn(slot, value, said)
            if found is not None:
                self._newest.appendleft((shard, found))
                self.counts[found.kind] += 1

    def forget(self, shard: str) -> None:
        """Free the shard's place for another one; its anomalies stay."""
        self._detectors.pop(shard, None)

    def newest(self, shard: str | None = None, count: int = 100) -> list[tuple[str, Anomaly]]:
        """Up to `count` anomalies of a shard, or of all, the newest first."""
        found = [(name, a) for name, a in self._newest if shard is None or name == shard]
        return found[:count]
