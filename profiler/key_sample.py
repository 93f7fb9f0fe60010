"""A bounded, unbiased sample of keys: each held key stands for a known number of operations."""

from collections.abc import Sequence
from typing import Any

import numpy as np

KEY_BYTES_MAX = 256
"""Longer keys are cut to this for the statistics: a prefix still orders them for split keys."""


class KeySample:
    """Takes at most `per_batch` keys of each batch and holds at most `size_max`.

    When full, each entry stays with probability 1/2 and counts double: the estimate of any key's
    count stays unbiased and its rate known, and a slot with many batches costs no more memory.
    Entries are dropped, not draws, so one batch never pushes out the others.
    """

    __slots__ = ("_keys", "_rate", "_size_max", "_weights")

    def __init__(self, size_max: int = 512) -> None:
        if size_max < 2:
            raise ValueError(f"size_max is {size_max}, the limit is at least 2")
        self._size_max = size_max
        self._keys: list[bytes] = []
        self._weights: list[float] = []
        self._rate = 1.0

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def rate(self) -> float:
        """The probability with which a drawn key is kept now."""
        return self._rate

    def add(self, keys: Sequence[bytes], weight: float, generator: np.random.Generator) -> None:
        """Each of `keys`, drawn by the caller, stands for `weight` operations."""
        if self._rate < 1.0:
            kept = generator.random(len(keys)) < self._rate
            keys = [key for key, keep in zip(keys, kept.tolist(), strict=True) if keep]
        self.add_kept(keys, weight, generator)

    def add_kept(
        self, keys: Sequence[bytes], weight: float, generator: np.random.Generator
    ) -> None:
        """Like `add`, for a caller that has drawn each of `keys` with `rate` already."""
        weight /= self._rate
        self._keys.extend(keys)
        self._weights.extend([weight] * len(keys))
        while len(self._keys) > self._size_max:
            stay = np.flatnonzero(generator.random(len(self._keys)) < 0.5).tolist()
            self._keys = [self._keys[i] for i in stay]
            self._weights = [2.0 * self._weights[i] for i in stay]
            self._rate /= 2.0

    def counts(self) -> tuple[tuple[bytes, float], ...]:
        """(key, estimated count), largest first."""
        total: dict[bytes, float] = {}
        for key, weight in zip(self._keys, self._weights, strict=True):
            total[key] = total.get(key, 0.0) + weight
        return tuple(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def as_key(key: Any) -> bytes:
    """The bytes of one element of a sequence of keys (bytes or Arrow scalar), at most this long."""
    found = key if isinstance(key, bytes) else key.as_py() if hasattr(key, "as_py") else bytes(key)
    return bytes(found[:KEY_BYTES_MAX])
