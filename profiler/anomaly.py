"""Names of anomalies: spike, dip, outage, level shift, drift. One detector a shard."""

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCALE_FADE = 0.02
Z_MAX = 1e6
WATCHED_MAX = 2_000
KEPT_MAX = 1_000
SHIFT_SLOTS = 6
"""A deviation that lasts this long is a new level."""
SHAPE_SLOTS = 64
"""Last values that tell a step from a slow change."""
STEP_SHARE_MAX = 0.95
"""A step leaves less than this share of the squared error that a slope leaves: it has one more
place to choose."""


class AnomalyKind(StrEnum):
    SPIKE = "spike"
    DIP = "dip"
    OUTAGE = "outage"
    LEVEL_SHIFT_UP = "level_shift_up"
    LEVEL_SHIFT_DOWN = "level_shift_down"
    DRIFT = "drift"


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

    A value further off than `threshold` running mean deviations opens an episode: a spike, a dip,
    or an outage if it is 0. The episode ends when a value is nearer to what was expected before it
    than to its first value. One that lasts `SHIFT_SLOTS` is a level shift from its first slot on
    (an outage stays one); nothing else is reported meanwhile. A smaller lasting change of the
    deviations (ADWIN: Bifet and Gavaldà, 2007) is a level shift if the values changed in a step,
    else a drift. Large deviations are clipped before they are learned, so an anomaly does not
    become the norm at once.
    """

    def __init__(self, threshold: float = 6.0, warm_slots: int = 24) -> None:
        self._threshold, self._warm_slots = threshold, warm_slots
        self._scale = 0.0
        self._seen = 0
        self._drift = load_adwin()(delta=0.001)
        self._values: deque[float] = deque(maxlen=SHAPE_SLOTS)
        self._open: Anomaly | None = None
        self._lasted = 0
        self._usual, self._echoes = 0.0, 0

    def learn(self, slot: int, value: float, expected: float) -> tuple[Anomaly | None, bool]:
        """The anomaly that this value opens or settles, and whether its kind is final.

        An anomaly that is not final comes again, with the slot of its beginning, once it is.
        """
        score, far = self._measure(value, expected)
        far = far and not self._is_echo(value)
        self._values.append(value)
        if self._seen <= self._warm_slots:
            return None, False
        if self._open is not None:
            return self._follow(self._open, value)
        if far:
            kind = AnomalyKind.SPIKE if value > expected else AnomalyKind.DIP
            kind = AnomalyKind.OUTAGE if value == 0.0 else kind
            self._open, self._lasted = Anomaly(slot, kind, value, expected, score), 1
            return self._open, False
        if self._drift.drift_detected:
            kind = _shape(np.array(self._values))
            return Anomaly(slot, kind, value, expected, score), True
        return None, False

    def _measure(self, value: float, expected: float) -> tuple[float, bool]:
        """The deviation in mean deviations, and whether it is far; learns it."""
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
        return score, warm and abs(score) > self._threshold

    def _is_echo(self, value: float) -> bool:
        """Whether the value is as before an episode that ended just now: then the forecast is
        off, not the load."""
        self._echoes = max(self._echoes - 1, 0)
        return self._echoes > 0 and abs(value - self._usual) <= self._threshold * self._scale

    def _follow(self, begun: Anomaly, value: float) -> tuple[Anomaly | None, bool]:
        """Whether the open episode ends with this value, or has become a level shift."""
        if abs(value - begun.expected) < abs(value - begun.value):
            self._open = None
            self._usual, self._echoes = begun.expected, SHIFT_SLOTS
            return begun, True
        self._lasted += 1
        if self._lasted < SHIFT_SLOTS:
            return None, False
        self._open = None
        self._drift = load_adwin()(delta=0.001)  # the change that it would find is reported
        if begun.kind is AnomalyKind.OUTAGE:
            return begun, True
        up = begun.value > begun.expected
        kind = AnomalyKind.LEVEL_SHIFT_UP if up else AnomalyKind.LEVEL_SHIFT_DOWN
        return replace(begun, kind=kind), True


def _shape(values: NDArray[np.float64]) -> AnomalyKind:
    """Level shift if one step explains the values better than a bend from flat to slope."""
    n = len(values)
    at = np.arange(n)
    cuts = range(min(4, n - 1), max(n - 3, min(4, n - 1) + 1))
    steps = [values[:c].var() * c + values[c:].var() * (n - c) for c in cuts]
    centred = values - values.mean()
    bends = []
    for cut in (0, *cuts):
        slope = np.maximum(at - cut, 0.0)
        slope -= slope.mean()
        explained = (slope @ centred) ** 2 / max(slope @ slope, 1e-9)
        bends.append(centred @ centred - explained)
    if STEP_SHARE_MAX * min(bends) <= min(steps):
        return AnomalyKind.DRIFT
    cut = cuts[int(np.argmin(steps))]
    up = values[cut:].mean() > values[:cut].mean()
    return AnomalyKind.LEVEL_SHIFT_UP if up else AnomalyKind.LEVEL_SHIFT_DOWN


class AnomalyBook:
    """The detectors of many shards, and the newest anomalies of them all.

    Bounded: `watched_max` shards, the first ones seen, and `kept_max` anomalies. `counts`:
    anomalies of each kind that are over or have become a level; `unwatched`: shards of the
    newest slot beyond the bound.
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
            found, final = detector.learn(slot, value, said)
            if found is None:
                continue
            self._keep(shard, found)
            if final:
                self.counts[found.kind] += 1

    def _keep(self, shard: str, found: Anomaly) -> None:
        """Add the anomaly, or replace it by its final form."""
        for i, (name, held) in enumerate(self._newest):
            if held.slot < found.slot - SHIFT_SLOTS - 1:
                break
            if name == shard and held.slot == found.slot:
                self._newest[i] = (shard, found)
                return
        self._newest.appendleft((shard, found))

    def forget(self, shard: str) -> None:
        """Free the shard's place for another one; its anomalies stay."""
        self._detectors.pop(shard, None)

    def newest(self, shard: str | None = None, count: int = 100) -> list[tuple[str, Anomaly]]:
        """Up to `count` anomalies of a shard, or of all, the newest first."""
        found = [(name, a) for name, a in self._newest if shard is None or name == shard]
        return found[:count]
