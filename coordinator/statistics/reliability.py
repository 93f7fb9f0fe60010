"""How often each instance fails, learned from what it reports and from its silence.

An unclean start, a silence, disk errors, writes that failed and outliers of latency count with the
weight of their kind; what comes within one episode counts once, by its heaviest kind. Counts
fade with HALF_LIFE_S, so a mended instance is trusted again.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec
import structlog

from logstore.base.errors import CorruptStorageError, StorageError, UnavailableError
from profiler.types import DataStoreStatus, ShardStatistics

HALF_LIFE_S = 86_400.0
EPISODE_S = 60.0
"""Faults that follow one within this time have the same cause."""
SILENT_S = 10.0
"""A longer gap between two reports of one process is a silence."""
SLOW_MS_MIN, SLOW_RATIO, SLOW_SAMPLES_MIN = 250.0, 10.0, 20
"""A p99 this high, this many times the median of the other instances, is an outlier."""
INSTANCES_MAX = 10_000
WEIGHTS: Mapping[str, float] = {
    "unclean start": 1.0,
    "silence": 1.0,
    "disk errors": 1.0,
    "failed writes": 0.25,
    "slow": 0.1,
}
"""How much of a failure each kind is."""
_CODES = {
    StorageError.code: "disk errors",
    CorruptStorageError.code: "disk errors",
    UnavailableError.code: "failed writes",
    "internal": "failed writes",
}

_log = structlog.get_logger(__name__)


class FailureRecord(msgspec.Struct):
    """What is kept of one instance. `score`: its failures, faded to `at_us`; times of the wall."""

    score: float = 0.0
    at_us: int = 0
    episode_us: int = 0
    episode_weight: float = 0.0
    started_us: int = 0
    """The start of the process that reported last."""
    kinds: dict[str, int] = msgspec.field(default_factory=dict)
    """Failures by kind since the instance is known."""


class Reliability:
    """Owned by the event loop. `keep` names the file that outlives a restart."""

    def __init__(self) -> None:
        self._records: dict[str, FailureRecord] = {}
        self._heard_s: dict[str, float] = {}
        self._faults: dict[str, dict[str, int]] = {}
        self._p99_ms: dict[str, float] = {}
        self._last_s = -math.inf
        self._deaf_s = -math.inf
        """Since when reports have come without a gap: before that, silence was ours."""
        self._path: Path | None = None

    def keep(self, path: Path) -> None:
        """Go on with what was saved at `path`, and save there from now on."""
        self._path = path
        try:
            self._records = msgspec.json.decode(path.read_bytes(), type=dict[str, FailureRecord])
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as e:
            _log.warning("failures learned before cannot be read", file=str(path), why=str(e))

    def take(
        self,
        instance: str,
        statistics: Sequence[ShardStatistics],
        status: DataStoreStatus | None,
        now_s: float,
        now_us: int,
    ) -> None:
        """One report. `now_s` is monotonic, `now_us` the wall clock."""
        if now_s - self._last_s > SILENT_S:
            self._deaf_s = now_s
        self._last_s = now_s
        if status is None or (instance not in self._records and self._full):
            return
        record = self._records.setdefault(instance, FailureRecord())
        heard_s, self._heard_s[instance] = self._heard_s.get(instance), now_s
        if status.started_us != record.started_us:
            record.started_us, self._faults[instance] = status.started_us, {}
            if status.unclean_start:
                self._count(instance, record, "unclean start", now_us)
        elif heard_s is not None and heard_s >= self._deaf_s and now_s - heard_s > SILENT_S:
            self._count(instance, record, "silence", now_us)
        for kind in self._new_faults(instance, status.faults):
            self._count(instance, record, kind, now_us)
        if self._slow(instance, statistics):
            self._count(instance, record, "slow", now_us)

    @property
    def _full(self) -> bool:
        return len(self._records) >= INSTANCES_MAX

    def _new_faults(self, instance: str, faults: Mapping[str, int]) -> set[str]:
        before = self._faults.get(instance, {})
        self._faults[instance] = dict(faults)
        grown = {code for code, count in faults.items() if count > before.get(code, 0)}
        return {kind for code, kind in _CODES.items() if code in grown}

    def _slow(self, instance: str, statistics: Sequence[ShardStatistics]) -> bool:
        p99_ms = [s.p99_ms for s in statistics if s.query_count >= SLOW_SAMPLES_MIN]
        if not p99_ms:
            return False
        worst_ms = self._p99_ms[instance] = max(p99_ms)
        others = [ms for name, ms in self._p99_ms.items() if name != instance]
        return bool(others) and worst_ms > max(SLOW_MS_MIN, SLOW_RATIO * median(others))

    def _count(self, instance: str, record: FailureRecord, kind: str, now_us: int) -> None:
        """Each unclean start counts; of the rest an episode counts once, by its heaviest kind."""
        weight = WEIGHTS[kind]
        score = record.score * _left(record.at_us, now_us)
        same = 0 <= now_us - record.episode_us <= EPISODE_S * 1e6 and kind != "unclean start"
        if same and weight <= record.episode_weight:
            return
        added = weight - record.episode_weight if same else weight
        record.score, record.at_us = score + added, now_us
        if not same:
            record.episode_us = now_us
        record.episode_weight = weight
        record.kinds[kind] = record.kinds.get(kind, 0) + 1
        per_day = round(self.failures_per_day(instance, now_us), 2)
        _log.warning("an instance failed", instance=instance, kind=kind, failures_per_day=per_day)
        self._save()

    def _save(self) -> None:
        """Failures are rare and records few: they are saved at once."""
        if self._path is None:
            return
        part = self._path.with_suffix(".part")
        try:
            part.write_bytes(msgspec.json.encode(self._records))
            part.replace(self._path)
        except OSError as e:
            _log.warning("failures were not saved", file=str(self._path), why=str(e))

    def failures_per_day(self, instance: str, now_us: int) -> float:
        """The faded number of failures over the mean time that they are remembered."""
        record = self._records.get(instance)
        if record is None:
            return 0.0
        days = HALF_LIFE_S / math.log(2.0) / 86_400.0
        return record.score * _left(record.at_us, now_us) / days

    def kinds(self, instance: str) -> dict[str, int]:
        """The instance's failures by kind."""
        record = self._records.get(instance)
        return dict(record.kinds) if record is not None else {}


def _left(then_us: int, now_us: int) -> float:
    """The share of a count that is left."""
    return float(0.5 ** (max(0, now_us - then_us) / 1e6 / HALF_LIFE_S))
