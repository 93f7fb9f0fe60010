"""What the scenarios measure."""

import itertools

from tests.cluster.load import Acks


def longest_gap_ms(acks: Acks, since_s: float) -> float:
    """Between two acks of a shard's open-loop producer, of appends called after the moment."""
    times = sorted(returned for called, returned in acks.times if called >= since_s)
    return max((b - a for a, b in itertools.pairwise(times)), default=0.0) * 1e3
