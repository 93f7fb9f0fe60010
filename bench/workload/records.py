"""Records for throughput runs, and the sum that proves that a system kept all of them."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bench.workload.accesses import key_names

Matrix: TypeAlias = npt.NDArray[np.uint8]

_MULTIPLIER_SEED = 20_130_101
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class RecordSet:
    """`count` records of one size with distinct keys and values. `keys` and `values` are uint8
    matrices, one row a record; the lists and Arrow arrays are views or copies of them."""

    keys: Matrix
    values: Matrix

    @property
    def count(self) -> int:
        return len(self.keys)

    @property
    def record_bytes(self) -> int:
        return int(self.keys.shape[1] + self.values.shape[1])

    @property
    def total_bytes(self) -> int:
        return self.count * self.record_bytes

    def digest(self) -> int:
        return digest_rows(np.hstack([self.keys, self.values]))

    def key_list(self) -> list[bytes]:
        return _rows(self.keys)

    def value_list(self) -> list[bytes]:
        return _rows(self.values)

    def arrow(self) -> tuple[pa.BinaryArray, pa.BinaryArray]:
        """Keys and values as Arrow binary arrays over the matrices' own memory."""
        return _arrow(self.keys), _arrow(self.values)

    def part(self, start: int, stop: int) -> "RecordSet":
        return RecordSet(self.keys[start:stop], self.values[start:stop])


def _rows(matrix: Matrix) -> list[bytes]:
    width = matrix.shape[1]
    flat = matrix.tobytes()
    return [flat[at : at + width] for at in range(0, len(flat), width)]


def _arrow(matrix: Matrix) -> pa.BinaryArray:
    rows, width = matrix.shape
    offsets = (np.arange(rows + 1, dtype=np.int64) * width).astype(np.int32)
    data = pa.py_buffer(np.ascontiguousarray(matrix))
    return pa.BinaryArray.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), data])


def make_records(count: int, *, record_bytes: int = 100, seed: int = 0) -> RecordSet:
    """Distinct 16-byte keys in shuffled order and random values, together `record_bytes` long.

    Values are random so that no system gains by compressing them; the first eight bytes are the
    record's number, so that no two are equal.
    """
    value_bytes = record_bytes - 16
    if value_bytes < 8 or count < 1:
        raise ValueError(f"record_bytes is {record_bytes} (least 24), count {count} (least 1)")
    rng = np.random.default_rng(seed)
    keys = key_names(rng.permutation(count)).view(np.uint8).reshape(count, 16)
    values = rng.integers(0, 256, (count, value_bytes), dtype=np.uint8)
    numbers = np.arange(count, dtype=np.uint64)
    values[:, :8] = numbers.view(np.uint8).reshape(count, 8)
    return RecordSet(keys, values)


def digest_rows(rows: Matrix) -> int:
    """A 64-bit sum over a multiset of equally long rows: it does not depend on their order, so a
    log of several partitions can be checked. Each row is a multilinear hash of its 8-byte words
    (fixed random odd multipliers), mixed, then all are added modulo 2^64. Guards against loss,
    duplication and damage, not against an adversary."""
    count, width = rows.shape
    words = -(-width // 8)
    padded = np.zeros((count, words * 8), dtype=np.uint8)
    padded[:, :width] = rows
    factor = np.random.default_rng(_MULTIPLIER_SEED).integers(
        0, 2**63, words, dtype=np.uint64
    ) * np.uint64(2) + np.uint64(1)
    mixed = (padded.view(np.uint64) * factor).sum(axis=1, dtype=np.uint64)
    mixed ^= mixed >> np.uint64(32)
    mixed *= _MIX
    mixed ^= mixed >> np.uint64(29)
    return int(mixed.sum(dtype=np.uint64))


def digest_bytes(joined: bytes, record_bytes: int) -> int:
    """`digest_rows` of adjacent rows in one buffer."""
    if len(joined) % record_bytes:
        raise ValueError(f"{len(joined)} bytes are no whole number of {record_bytes}-byte records")
    return digest_rows(np.frombuffer(joined, dtype=np.uint8).reshape(-1, record_bytes))
