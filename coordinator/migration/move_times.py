"""How long a move takes by its size, learned from moves that ended: overhead + bytes / rate. Pure.

The rate is the weighted median of what moves of at least `TELLING_BYTES` say (Theil-Sen); smaller
ones say only what a move costs without bytes. The spread is of the residuals' logarithms, by their
median deviation, widened for few moves by Student's t.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

TELLING_BYTES = 1_000_000
"""A difference of sizes below says nothing of the rate."""
PAIRS_MIN = 3
"""Fewer pairs of moves of different sizes: the rates of the copies are taken."""
PRIOR_RATE_FACTOR = 2.5
"""80 % of rates lie within this factor of the one that is assumed before any was seen."""
PRIOR_SD = 0.4
"""Of the logarithm of a move's time, before any was seen; it counts as `PRIOR_MOVES` moves."""
PRIOR_MOVES = 2
SHORTEST_S = 0.01
_T_80 = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372)
"""Student's t, 90 % one-sided, for 1 to 10 degrees of freedom; 1.282 for ever more."""


@dataclass(frozen=True, slots=True)
class MoveTime:
    """One move: its bytes, its seconds without those that its options prescribe, and the rate of
    its copy (None: not measured)."""

    bytes: int
    seconds: float
    bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class TimeModel:
    """`spread`: 80 % of moves take between expected / spread and expected * spread; the part of
    the bytes, between those of `rate_spread`."""

    overhead_s: float
    bytes_per_s: float
    spread: float
    rate_spread: float


def fit(moves: Sequence[MoveTime], prior_s: float, prior_bytes_per_s: float) -> TimeModel:
    """The model of these moves; what they do not say is as before any was seen."""
    s_per_byte, seen = _s_per_byte(moves, 1 / prior_bytes_per_s)
    if not moves:
        spread = math.exp(1.282 * PRIOR_SD)
        return TimeModel(prior_s, prior_bytes_per_s, spread, PRIOR_RATE_FACTOR)
    overhead_s = max(0.0, median(m.seconds - m.bytes * s_per_byte for m in moves))
    residuals = [
        math.log(max(m.seconds, SHORTEST_S) / max(overhead_s + m.bytes * s_per_byte, SHORTEST_S))
        for m in moves
    ]
    spread = _spread(residuals)
    return TimeModel(
        overhead_s, 1 / s_per_byte, spread, spread if seen else max(spread, PRIOR_RATE_FACTOR)
    )


def _s_per_byte(moves: Sequence[MoveTime], prior: float) -> tuple[float, bool]:
    """Seconds a byte, and whether the moves said so."""
    pairs = [
        ((b.seconds - a.seconds) / (b.bytes - a.bytes), float(b.bytes - a.bytes))
        for a in moves
        for b in moves
        if b.bytes - a.bytes >= TELLING_BYTES
    ]
    if len(pairs) >= PAIRS_MIN:
        slope = weighted_median(pairs)
        if slope > 0:
            return slope, True
    rates = [
        (1 / m.bytes_per_s, float(m.bytes))
        for m in moves
        if m.bytes_per_s and m.bytes >= TELLING_BYTES
    ]
    return (weighted_median(rates), True) if rates else (prior, False)


def weighted_median(values: Sequence[tuple[float, float]]) -> float:
    """The smallest value below or at which half of the weight lies; of (value, weight)."""
    ordered = sorted(values)
    half, seen = sum(weight for _, weight in ordered) / 2, 0.0
    for value, weight in ordered:
        seen += weight
        if seen >= half:
            return value
    raise ValueError("values is empty")


def _spread(residuals: Sequence[float]) -> float:
    """The factor that 80 % of the next moves stay within."""
    count = len(residuals)
    middle = median(residuals)
    deviation = 1.4826 * median(abs(r - middle) for r in residuals)
    known = PRIOR_MOVES * PRIOR_SD**2 + count * deviation**2
    sd = math.sqrt(known / (PRIOR_MOVES + count))
    freedom = PRIOR_MOVES + count - 1
    t = _T_80[freedom - 1] if freedom <= len(_T_80) else 1.282
    return math.exp(t * sd * math.sqrt(1 + 1 / count))
