"""Statistics of both sides of a ramp, for the guard rails."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RampStatistics:
    """Statistics of both sides since the ramp began. None: not known.

    `lag_records`: the source's high watermark less the target's end. `at_us`: when the statistics
    came in. `samples`: reads behind the target's rates, or the source's if those are fewer.
    """

    lag_records: int | None = None
    error_rate: float | None = None
    source_p99_ms: float | None = None
    target_p99_ms: float | None = None
    samples: int = 0
    target_samples: int = 0
    at_us: int = 0
