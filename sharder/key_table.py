"""Which keys have a virtual shard key already: key hash -> token, in 16 bytes a key.

Sorted runs, joined as they grow, so that a few binary searches find a batch. Two keys with one
hash share a token without harm, since a virtual key is the token and then the key itself. Of two
tokens for one key the first one counts, for ever.
"""

from collections.abc import Iterable

import numpy as np
import xxhash
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]


def hashes_of(keys: Iterable[bytes]) -> Numbers:
    """The key hashes of the table."""
    return np.array([xxhash.xxh3_64_intdigest(k) for k in keys], dtype=np.uint64)


class KeyTable:
    """Grows only. The order of `add` calls is the order in which keys were first written."""

    def __init__(self) -> None:
        self._runs: list[tuple[Numbers, Numbers]] = []

    def __len__(self) -> int:
        return sum(len(hashes) for hashes, _ in self._runs)

    def find(self, hashes: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
        """Tokens and whether they are known, [n] each; the token of an unknown key is 0."""
        tokens = np.zeros(len(hashes), dtype=np.uint64)
        known = np.zeros(len(hashes), dtype=np.bool_)
        for held, values in self._runs:
            at = np.minimum(np.searchsorted(held, hashes), len(held) - 1)
            hit = held[at] == hashes
            tokens[hit] = values[at[hit]]
            known |= hit
        return tokens, known

    def add(self, hashes: Numbers, tokens: Numbers) -> None:
        """Add the unknown hashes; of equal ones the first."""
        if len(hashes) != len(tokens):
            raise ValueError(f"tokens has {len(tokens)} elements, hashes has {len(hashes)}")
        new = ~self.find(hashes)[1]
        found, first = np.unique(hashes[new], return_index=True)
        if not len(found):
            return
        self._runs.append((found, tokens[new][first]))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            (a, b), (c, d) = self._runs[-2:]
            joined = np.concatenate([a, c])
            order = np.argsort(joined, kind="stable")
            self._runs[-2:] = [(joined[order], np.concatenate([b, d])[order])]

    def counts(self, starts: Numbers) -> NDArray[np.int64]:
        """How many tokens lie in each range, [R]; `starts` ascends and begins with 0."""
        total = np.zeros(len(starts), dtype=np.int64)
        for _, tokens in self._runs:
            at = np.searchsorted(starts, tokens, side="right") - 1
            total += np.bincount(at, minlength=len(starts))
        return total
