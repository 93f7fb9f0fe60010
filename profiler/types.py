"""Plain data of the profiler: statistics in, forecasts out."""

import math
from bisect import bisect_left
from dataclasses import dataclass, field, fields
from enum import StrEnum


class OpType(StrEnum):
    """A client's operation. `APPEND` counts as a write, the rest as reads."""

    APPEND = "append"
    KEY_READ = "key_read"
    SCAN = "scan"
    TAIL = "tail"


class Resource(StrEnum):
    """What an instance has a capacity of."""

    OPERATIONS = "operations"
    BYTES = "bytes"
    CPU = "CPU"
    MEMORY = "memory"
    IO = "I/O"
    NETWORK = "network"
    SPACE = "space"


@dataclass(frozen=True, slots=True)
class ShardStatistics:
    """One instance's figures of one shard in one planning period.

    `slot` is the index of the period (`time_us // period_us`), `counts` the operations by type,
    `query_count` their sum, `bytes_in` and `bytes_out` bytes appended and read, the response times
    milliseconds per operation (p50 and p99 from a histogram: within 5 %). `sampled_keys` are
    (routing key, estimated count) pairs, largest first: an unbiased sample, so its counts sum to
    about `query_count`. `group_counts` are the operations by client group, where known.
    `late_count` operations belonged to slots that had been reported before. `failed_count`
    operations are not in `query_count`: the instance failed to serve them. `refused_count` of those
    were over its capacity. `retried_count`, among the served and the refused, had been refused
    before: `new_count` leaves them out, so that a backlog does not pass for a rise.
    """

    shard: str
    instance: str
    slot: int
    period_s: float
    counts: dict[OpType, int]
    query_count: int
    bytes_in: int
    bytes_out: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    migration_weight: float = 1.0
    late_count: int = 0
    failed_count: int = 0
    group_counts: dict[str, int] = field(default_factory=dict)
    sampled_keys: tuple[tuple[bytes, float], ...] = ()
    refused_count: int = 0
    retried_count: int = 0

    @property
    def offered_count(self) -> int:
        """Operations that came, served or refused."""
        return self.query_count + self.refused_count

    @property
    def new_count(self) -> int:
        """Operations that came for the first time: what forecasts learn."""
        return max(0, self.offered_count - self.retried_count)

    @property
    def error_rate(self) -> float:
        """Share of the operations that the instance could not serve, 0 to 1."""
        tried = self.query_count + self.failed_count
        return self.failed_count / tried if tried else 0.0

    @property
    def queries_per_s(self) -> float:
        return self.query_count / self.period_s


@dataclass(frozen=True, slots=True)
class Capacity:
    """The limits of an instance; `inf` is unlimited. `cpu_share` is in cores, the rest as named."""

    ops_per_s: float = math.inf
    bytes_per_s: float = math.inf
    cpu_share: float = math.inf
    stored_bytes: float = math.inf
    memory_bytes: float = math.inf
    io_bytes_per_s: float = math.inf
    network_bytes_per_s: float = math.inf

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not value > 0:
                raise ValueError(f"{limit.name} is {value}, the limit is more than 0")


@dataclass(frozen=True, slots=True)
class DataStoreStatus:
    """One instance at one moment: its load and its use of each resource.

    `loads` are the used shares of its capacities, `load` the largest of them, `bound_by` the
    resource that it is of. `estimated` are the fields of `capacity` that are not stated.
    `costs` are learned CPU seconds by kind of operation and MiB (`profiler.costs`), and
    `idle_cpu_share` is used without any. `lag_ms` is how late its event loop runs on the mean.
    `round_trip_ms` is the median to each peer, by instance id; `round_trips_us` its p50, p90 and
    p99. `throttled` counts the operations that its admission refused since it started.
    `started_us`: when its process started; `unclean_start`: the one before was killed. `faults`:
    its failed operations by error code.
    """

    instance: str
    load: float
    capacity: Capacity
    ops_per_s: float = 0.0
    bytes_per_s: float = 0.0
    cpu_share: float = 0.0
    stored_bytes: int = 0
    memory_bytes: int = 0
    io_bytes_per_s: float = 0.0
    round_trip_ms: dict[str, float] = field(default_factory=dict)
    throttled: int = 0
    started_us: int = 0
    unclean_start: bool = False
    faults: dict[str, int] = field(default_factory=dict)
    round_trips_us: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    loads: dict[Resource, float] = field(default_factory=dict)
    bound_by: Resource | None = None
    estimated: tuple[str, ...] = ()
    costs: dict[str, float] = field(default_factory=dict)
    idle_cpu_share: float = 0.0
    lag_ms: float = 0.0

    @property
    def available(self) -> float:
        """The unused fraction of the scarcest resource, 0 to 1."""
        return max(0.0, 1.0 - self.load)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast load of a shard at slots `made_at_slot + step`, in the unit that was learned.

    All tuples run along `horizon_slots`. `quantiles[i]` are the values of the predictive
    distribution of step `horizon_slots[i]` at `levels`; the interval bounds are among them.
    `model` is the model used at each step. `learned_slots` is the length of its history.
    """

    shard: str
    made_at_slot: int
    horizon_slots: tuple[int, ...]
    mean: tuple[float, ...]
    lower80: tuple[float, ...]
    upper80: tuple[float, ...]
    lower95: tuple[float, ...]
    upper95: tuple[float, ...]
    model: tuple[str, ...]
    levels: tuple[float, ...]
    quantiles: tuple[tuple[float, ...], ...]
    learned_slots: int = 0

    def index(self, step: int) -> int:
        """The index of `step` (slots ahead) in the tuples; ValueError when it was not asked for."""
        i = bisect_left(self.horizon_slots, step)
        if i == len(self.horizon_slots) or self.horizon_slots[i] != step:
            raise ValueError(f"step is {step}, the forecast holds {self.horizon_slots}")
        return i

    def prob_above(self, x: float, step: int) -> float:
        """P(value > x) `step` slots ahead: linear between quantiles, exponential tail above.

        The tail continues with the rate that the two outermost quantiles imply.
        """
        values, levels = self.quantiles[self.index(step)], self.levels
        if x < values[0]:
            return 1.0 - levels[0] * max(0.0, x / values[0]) if x > 0 else 1.0
        if x >= values[-1]:
            span = values[-1] - values[-2]
            if span <= 0.0:
                return 0.0 if x > values[-1] else 1.0 - levels[-1]
            rate = math.log((1.0 - levels[-2]) / (1.0 - levels[-1])) / span
            return (1.0 - levels[-1]) * math.exp(-rate * (x - values[-1]))
        hi = bisect_left(values, x)
        while hi + 1 < len(values) and values[hi] <= x:
            hi += 1
        lo = hi - 1
        span = values[hi] - values[lo]
        part = (x - values[lo]) / span if span > 0 else 1.0
        return 1.0 - (levels[lo] + part * (levels[hi] - levels[lo]))
