"""The 64-bit hash of keys that the key index stores. Stable for ever: it is on disks.

Definition (all arithmetic modulo 2**64, words little-endian): h = len * K1; for each 8-byte word of
the key, the last one padded with zero bytes: h = (h ^ word) * K2, h ^= h >> 29; at last h *= K3,
h ^= h >> 32. Keys over LONG_BYTES are xxh3-64(key) instead, so one long key does not cost hundreds
of vector passes. The best bits are the upper ones. Not a defence against chosen collisions: they
cost time, never correctness, since every reader compares the keys themselves.

Why not xxh3 for all: it has no vector form over Arrow buffers, and a Python list of keys hashed one
by one holds the GIL for 107 ns/key; this takes 12 ns/key, mostly outside the GIL.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

LONG_BYTES = 64

_MOD = (1 << 64) - 1
_K1, _K2, _K3 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_NK1, _NK2, _NK3 = np.uint64(_K1), np.uint64(_K2), np.uint64(_K3)
_S29, _S32 = np.uint64(29), np.uint64(32)
_TAIL_MASK = np.array([(1 << (8 * n)) - 1 for n in range(9)], dtype=np.uint64)
_STEP = 8_192
"""Keys per pass: the temporaries stay in the L2 cache (12 ns/key; 38 with 65,536)."""

Hashes = npt.NDArray[np.uint64]


def hash_key(key: bytes) -> int:
    """The hash of one key."""
    if len(key) > LONG_BYTES:
        return int(xxhash.xxh3_64_intdigest(key))
    h = len(key) * _K1 & _MOD
    for at in range(0, len(key), 8):
        h = (h ^ int.from_bytes(key[at : at + 8], "little")) * _K2 & _MOD
        h ^= h >> 29
    h = h * _K3 & _MOD
    return h ^ (h >> 32)


def hash_keys(columns: Sequence[pa.BinaryArray]) -> Hashes:
    """The hashes of the keys of Arrow binary columns (no nulls), in order; equals `hash_key`."""
    if not columns:
        return np.empty(0, dtype=np.uint64)
    array = columns[0] if len(columns) == 1 else pa.concat_arrays(columns)
    n = len(array)
    out = np.empty(n, dtype=np.uint64)
    if n == 0:
        return out
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32, n + 1, array.offset * 4)
    low, high = int(offsets[0]), int(offsets[-1])
    padded = np.zeros(high - low + 16, dtype=np.uint8)
    if high > low:
        padded[: high - low] = np.frombuffer(data_buffer, np.uint8)[low:high]
    # Every position seen as the 8-byte word that starts there (unaligned, overlapping).
    words: Hashes = np.ndarray((high - low + 9,), "<u8", padded, strides=(1,))
    for at in range(0, n, _STEP):
        ends = offsets[at : at + _STEP + 1].astype(np.int64) - low
        out[at : at + _STEP] = _hash_step(words, ends)
    _hash_long(array, np.diff(offsets), out)
    return out


def _hash_step(words: Hashes, ends: npt.NDArray[np.int64]) -> Hashes:
    starts, lengths = ends[:-1], np.diff(ends)
    h: Hashes = lengths.astype(np.uint64) * _NK1
    shortest, longest = int(lengths.min()), min(int(lengths.max()), LONG_BYTES)
    whole = min(shortest, LONG_BYTES) // 8
    for w in range(whole):  # words that every key has in full
        h ^= words[starts + 8 * w]
        h *= _NK2
        h ^= h >> _S29
    for w in range(whole, (longest + 7) // 8):
        left = np.clip(lengths - 8 * w, 0, 8)
        word = words[np.minimum(starts + 8 * w, len(words) - 1)] & _TAIL_MASK[left]
        mixed = (h ^ word) * _NK2
        mixed ^= mixed >> _S29
        np.copyto(h, mixed, where=left > 0)
    h *= _NK3
    h ^= h >> _S32
    return h


def _hash_long(array: pa.BinaryArray, lengths: npt.NDArray[np.int32], out: Hashes) -> None:
    for i in np.flatnonzero(lengths > LONG_BYTES):
        out[i] = xxhash.xxh3_64_intdigest(array[int(i)].as_py())
