"""The batch that every workload yields, and the one file format that holds any of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bytes: TypeAlias = npt.NDArray[np.bytes_]

APPEND = 0
READ = 1
OP_NAMES = ("append", "read")
KEY_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Accesses:
    """`n` accesses ordered by time. Arrays of one length:

    `time_s` float64, seconds since the workload's start; `key` bytes (numpy 'S'); `op` uint8,
    APPEND or READ; `size` int64, bytes of the value.
    """

    time_s: Floats
    key: Bytes
    op: npt.NDArray[np.uint8]
    size: Ints

    def __post_init__(self) -> None:
        lengths = {len(self.time_s), len(self.key), len(self.op), len(self.size)}
        if len(lengths) != 1:
            raise ValueError(f"columns have different lengths: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.time_s)


def key_names(ids: npt.ArrayLike, prefix: bytes = b"key-") -> Bytes:
    """Names of key numbers, `prefix` and 12 digits: they sort as the numbers do."""
    number = np.asarray(ids, dtype=np.int64)
    if number.size and (number.min() < 0 or number.max() >= 10**KEY_DIGITS):
        raise ValueError(f"key numbers must lie in [0, 10^{KEY_DIGITS})")
    powers = 10 ** np.arange(KEY_DIGITS - 1, -1, -1, dtype=np.int64)
    letters = np.empty((len(number), len(prefix) + KEY_DIGITS), dtype=np.uint8)
    letters[:, : len(prefix)] = np.frombuffer(prefix, dtype=np.uint8)
    letters[:, len(prefix) :] = (number[:, None] // powers) % 10 + ord("0")
    return letters.view(f"S{letters.shape[1]}").ravel()


def read_csv(path: Path) -> Accesses:
    """Any recorded load: a CSV with the header `time_s,key,op,size`, `op` append or read.

    Rows are put in time order. ValueError names what is wrong.
    """
    wanted = {"time_s": pa.float64(), "key": pa.string(), "op": pa.string(), "size": pa.int64()}
    table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=wanted))
    missing = set(wanted) - set(table.column_names)
    if missing:
        raise ValueError(f"{path.name} has no column {sorted(missing)}")
    op = pc.index_in(table["op"], pa.array(OP_NAMES))
    if op.null_count:
        raise ValueError(f"{path.name}: op must be one of {OP_NAMES}")
    time_s = table["time_s"].to_numpy()
    size = table["size"].to_numpy()
    if np.isnan(time_s).any() or (size < 0).any():
        raise ValueError(f"{path.name}: time_s must be a number and size not negative")
    order = np.argsort(time_s, kind="stable")
    key = np.asarray(pc.cast(table["key"], pa.binary()).to_pylist(), dtype=np.bytes_)
    return Accesses(time_s[order], key[order], op.to_numpy().astype(np.uint8)[order], size[order])


def write_csv(accesses: Accesses, path: Path) -> None:
    """The inverse of `read_csv`. Keys must be printable text."""
    table = pa.table(
        {
            "time_s": accesses.time_s,
            "key": pa.array([key.decode() for key in accesses.key.tolist()], pa.string()),
            "op": pa.array(OP_NAMES).take(pa.array(accesses.op)),
            "size": accesses.size,
        }
    )
    csv.write_csv(table, path)
