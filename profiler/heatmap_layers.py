"""Heatmaps at several resolutions and of several kinds: reads, writes, bytes."""

from collections.abc import Sequence

from profiler.heatmap import AccessHeatmap
from profiler.types import OpType

READS, WRITES, BYTES = "reads", "writes", "bytes"
LAYERS = (READS, WRITES, BYTES)
RESOLUTIONS_S = (1.0, 60.0, 3600.0)


class LayeredHeatmap:
    """One AccessHeatmap for each resolution (slot length) and layer; they share nothing.

    Each layer's buckets follow its own traffic: what is read and what is written are often not the
    same keys. Memory is (resolutions x layers) times that of one heatmap.
    """

    def __init__(
        self,
        resolutions_s: Sequence[float] = RESOLUTIONS_S,
        buckets_max: int = 128,
        slots_max: int = 168,
    ) -> None:
        if not resolutions_s or any(not s > 0 for s in resolutions_s):
            raise ValueError(f"resolutions_s is {resolutions_s}, the limit is > 0 each")
        self.resolutions_s = tuple(resolutions_s)
        self._maps = {
            (s, layer): AccessHeatmap(buckets_max, slots_max)
            for s in self.resolutions_s
            for layer in LAYERS
        }

    def add(
        self,
        op: OpType,
        keys: Sequence[bytes],
        weights: Sequence[float],
        size_bytes: Sequence[float],
        time_s: float,
    ) -> None:
        """Accesses of `keys` at one time: how many operations and bytes each stands for."""
        layer = WRITES if op is OpType.APPEND else READS
        for s in self.resolutions_s:
            slot = int(time_s // s)
            self._maps[s, layer].add(keys, weights, slot)
            self._maps[s, BYTES].add(keys, size_bytes, slot)

    def at(self, resolution_s: float, layer: str) -> AccessHeatmap:
        """One of the heatmaps; ValueError when there is none of that resolution or layer."""
        found = self._maps.get((resolution_s, layer))
        if found is None:
            raise ValueError(
                f"resolution_s, layer are {resolution_s}, {layer!r}, "
                f"the limits are {self.resolutions_s} and {LAYERS}"
            )
        return found

    def merge(self, other: "LayeredHeatmap") -> None:
        """Add the heatmaps of another instance, at the resolutions that both have."""
        for key, mine in self._maps.items():
            if key in other._maps:
                mine.merge(other._maps[key])
