"""Interpolation of learned values between the fixed, scored horizons."""

import numpy as np

from profiler.forecast.port import FloatArray, IntArray


def between(values: FloatArray, at: IntArray, wanted: IntArray) -> FloatArray:
    """`values` (rows, len(at), k) brought to positions `wanted`, linearly, held at the ends."""
    hi = np.clip(np.searchsorted(at, wanted), 0, len(at) - 1)
    lo = np.maximum(hi - 1, 0)
    span = np.maximum(at[hi] - at[lo], 1)
    part = np.clip((wanted - at[lo]) / span, 0.0, 1.0)[None, :, None]
    found: FloatArray = values[:, lo] * (1.0 - part) + values[:, hi] * part
    return found
