"""The sampled accesses of an instance: which key, when, how; bounded in samples/s and in memory.

The hot path adds two numbers for a batch that is not sampled. The rate follows the load, so that
about `samples_per_s_max` accesses are kept; each kept one says for how many it stands.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash

from profiler.access_log import ACCESS, OPS, AccessLog
from profiler.key_sample import as_key
from profiler.types import OpType

ROWS_MAX = 65_536
"""About 11 MB with keys of 30 bytes, 25 MB with keys of 256 bytes."""
BATCH_SAMPLES_MAX = 64
"""Samples of one batch: a large one must not spend a second's budget."""
WAITING_ROWS_MAX = 512
PART_ROWS_MAX = 8_192
"""Rows of one message of an answer."""
SCHEMA = pa.schema(
    [
        ("time_us", pa.int64()),
        ("shard", pa.string()),
        ("key", pa.binary()),
        ("op", pa.string()),
        ("size_bytes", pa.uint32()),
        ("latency_us", pa.float32()),
        ("weight", pa.float32()),
        ("group", pa.string()),
    ]
)


class _Label(NamedTuple):
    shard: str
    key: bytes
    group: str


class Wanted(NamedTuple):
    """Which accesses are asked for: of a log, of one key or of the keys in [start, end).

    `token_bytes`: the bytes before each key that are not the caller's (balanced logs); `since_us`:
    from this time on.
    """

    log: str
    key: bytes | None = None
    start: bytes = b""
    end: bytes | None = None
    since_us: int = 0
    token_bytes: int = 0

    def keeps(self, label: _Label) -> bool:
        if self.log and label.shard.rpartition("/")[0] != self.log:
            return False
        key = label.key[self.token_bytes :]
        if self.key is not None:
            return key == self.key
        return self.start <= key and (self.end is None or key < self.end)


class AccessSampler:
    """Keeps samples of accesses in an `AccessLog`; not thread-safe, the event loop owns it.

    Gaps between samples are geometric: each access is kept with the present rate, whatever the
    sizes of batches. The rate is set anew each second, and halves when a second's budget is spent.
    """

    def __init__(self, name: str, samples_per_s_max: int, rows_max: int = ROWS_MAX) -> None:
        """`name` seeds the draws. `samples_per_s_max` 0: nothing is kept."""
        self._generator = np.random.default_rng(xxhash.xxh32_intdigest(name.encode()))
        self._log = AccessLog(rows_max, self._generator, thins=True)
        self._waiting: list[tuple[int, int, int, int, float, float]] = []
        self._labels: list[_Label] = []
        self._samples_per_s_max = samples_per_s_max
        self.rate = 1.0
        """The probability with which an access is kept now."""
        self._gap = 1 if samples_per_s_max else 1 << 62
        """Accesses until the next sample; it is the last of them."""
        self._gap_weight = 1.0
        self.offered_count = 0
        self._second_us = 0
        self._second_offered = 0
        self._second_samples = 0

    # ---- hot path ------------------------------------------------------------------------

    def take(
        self,
        shard: str,
        op: OpType,
        count: int,
        size_bytes: int,
        latency_s: float,
        now_us: int,
        keys: Sequence[Any] | None,
        group: str = "",
    ) -> None:
        """One batch of `count` accesses of `size_bytes` in all; keys None: it has none."""
        self.offered_count += count
        self._gap -= count
        if self._gap <= 0:
            self._sample(shard, op, count, size_bytes, latency_s, now_us, keys, group)

    def _sample(
        self,
        shard: str,
        op: OpType,
        count: int,
        size_bytes: int,
        latency_s: float,
        now_us: int,
        keys: Sequence[Any] | None,
        group: str,
    ) -> None:
        self._follow(now_us)
        if count * self.rate > BATCH_SAMPLES_MAX:
            at = self._generator.integers(0, count, BATCH_SAMPLES_MAX).tolist()
            weights = [count / BATCH_SAMPLES_MAX] * BATCH_SAMPLES_MAX
            self._draw_gap()
        else:
            at, weights = [], []
            place = count - 1 + self._gap
            while place < count:
                at.append(place)
                weights.append(self._gap_weight)
                self._draw_gap()
                place += self._gap
            self._gap = place - count + 1
        each, kind, latency_us = size_bytes // count, OPS.index(op), latency_s * 1e6
        for place, weight in zip(at, weights, strict=True):
            key = b"" if keys is None else as_key(keys[place])
            hashed = xxhash.xxh3_64_intdigest(key)
            self._waiting.append((now_us, hashed, kind, each, latency_us, weight))
            self._labels.append(_Label(shard, key, group))
        self._second_samples += len(at)
        if self._second_samples > self._samples_per_s_max:
            self.rate, self._second_samples = self.rate / 2.0, self._second_samples // 2
        if len(self._waiting) >= WAITING_ROWS_MAX:
            self._flush()

    def _draw_gap(self) -> None:
        drawn = 1 if self.rate >= 1.0 else int(self._generator.geometric(self.rate))
        self._gap, self._gap_weight = drawn, 1.0 / self.rate

    def _follow(self, now_us: int) -> None:
        """Once a second: the rate that the load of the last one asks for."""
        passed_s = (now_us - self._second_us) / 1e6
        if 0.0 <= passed_s < 1.0:
            return
        offered = self.offered_count - self._second_offered
        per_s = offered / passed_s if passed_s > 0 else 0.0
        self.rate = min(1.0, self._samples_per_s_max / per_s) if per_s > 0 else 1.0
        self._second_us, self._second_offered = now_us, self.offered_count
        self._second_samples = 0

    # ---- questions -----------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._log) + len(self._waiting)

    def _flush(self) -> None:
        rows = np.array(self._waiting, dtype=ACCESS)
        self._log.record_rows(rows, self._labels)
        self._waiting, self._labels = [], []

    def parts(self, wanted: Wanted) -> Iterator[pa.RecordBatch]:
        """The kept accesses that are wanted, oldest first, of SCHEMA, PART_ROWS_MAX at a time."""
        self._flush()
        rows, labels = self._log.labelled_rows(wanted.since_us or None)
        kept = [n for n, label in enumerate(labels) if wanted.keeps(label)]
        for first in range(0, len(kept), PART_ROWS_MAX):
            part = kept[first : first + PART_ROWS_MAX]
            yield _batch(rows[part], [labels[n] for n in part])


def _batch(rows: Any, labels: Sequence[_Label]) -> pa.RecordBatch:
    columns = {
        "shard": [label.shard for label in labels],
        "key": [label.key for label in labels],
        "group": [label.group for label in labels],
        "op": [str(OPS[op]) for op in rows["op"].tolist()],
        **{
            name: np.ascontiguousarray(rows[name])
            for name in ("time_us", "size_bytes", "latency_us", "weight")
        },
    }
    arrays = [pa.array(columns[f.name], f.type) for f in SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
