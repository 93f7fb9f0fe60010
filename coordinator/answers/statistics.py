"""Answers about past and forecast load."""

from msgspec import UNSET, UnsetType

from coordinator.answers.base import Answer
from profiler.anomaly import AnomalyKind
from profiler.forecast.trend import Drift
from profiler.types import Forecast, OpType, Resource


class ShardSlot(Answer, frozen=True, kw_only=True):
    """One statistic of a shard from an instance (`profiler.types.ShardStatistics`)."""

    shard: str
    instance: str
    slot: int
    period_s: float
    counts: dict[OpType, int]
    """Operations by type, each type present."""
    query_count: int
    bytes_in: int
    bytes_out: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    migration_weight: float
    late_count: int
    failed_count: int
    group_counts: dict[str, int]
    sampled_keys: tuple[tuple[bytes, float], ...]
    """Routing keys (base64 in JSON) and the estimated number of their accesses."""
    log: str
    queries_per_s: float
    refused_count: int = 0
    """Operations that were over the instance's capacity."""
    retried_count: int = 0
    """Operations, served or refused, that had been refused before."""


class LoadNow(Answer, frozen=True, kw_only=True):
    """Load of the last `over_s` seconds, per second (`profiler.running.CopyLoad`)."""

    over_s: float
    offered_per_s: float
    """Operations that came; the admitted and the refused ones."""
    admitted_per_s: float
    refused_per_s: float
    """Over the instance's capacity."""
    retried_per_s: float
    """Among the offered: refused before, and sent again."""
    failed_per_s: float
    reads_per_s: float
    """Among the admitted."""
    bytes_in_per_s: float
    bytes_out_per_s: float
    replicated_per_s: float
    """Records that followers wrote for the primary."""
    replicated_bytes_per_s: float
    append_batches_per_s: float
    """Requests that brought the appends."""
    stored_bytes: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    by_type_per_s: dict[OpType, float]
    """The admitted ones."""
    cpu: float
    """Cores that they take, by what an operation costs where it is served."""


class CopyNow(LoadNow, frozen=True, kw_only=True):
    """A copy's present load. `reported`: its instance has reported it within the last minute."""

    instance: str
    role: str
    reported: bool


class ShardNow(LoadNow, frozen=True, kw_only=True):
    """A shard's present load: the sum over its copies, and each of them, the primary first.

    `instance`: the primary's. `slot`: the newest slot of its log that is over.
    """

    shard: str
    log: str
    instance: str
    slot: int | None
    migration_weight: float
    copies: tuple[CopyNow, ...]


class InstanceLimits(Answer, frozen=True, kw_only=True):
    """The limits of an instance, stated or estimated; None is unlimited. `cpu_share` is in
    cores."""

    ops_per_s: float | None
    bytes_per_s: float | None
    cpu_share: float | None
    stored_bytes: float | None
    memory_bytes: float | None
    io_bytes_per_s: float | None
    network_bytes_per_s: float | None


class InstanceNow(Answer, frozen=True, kw_only=True):
    """The last status of an instance (`profiler.types.DataStoreStatus`)."""

    instance: str
    load: float
    """The largest used fraction of its capacity; 1 is full."""
    capacity: InstanceLimits
    ops_per_s: float
    bytes_per_s: float
    cpu_share: float
    stored_bytes: int
    memory_bytes: int
    io_bytes_per_s: float
    round_trip_ms: dict[str, float]
    """To each peer, by its id."""
    throttled: int = 0
    """Operations that its admission refused since it started."""
    started_us: int = 0
    """When its process started, microseconds since 1970 UTC."""
    unclean_start: bool = False
    """Whether the process before it was killed."""
    faults: dict[str, int]
    """Its failed operations since it started, by error code."""
    round_trips_us: dict[str, tuple[float, float, float]]
    """p50, p90 and p99 of the newest round trips to each peer."""
    loads: dict[Resource, float]
    """The used share of each of its capacities."""
    bound_by: Resource | None
    """The resource that `load` is of."""
    estimated: tuple[str, ...]
    """The fields of `capacity` that were not stated but estimated."""
    costs: dict[str, float]
    """CPU seconds of an operation, or of a MiB, by kind."""
    idle_cpu_share: float
    lag_ms: float
    """How late its event loop runs, on the mean."""
    available: float
    """The unused fraction of the scarcest resource, 0 to 1."""
    alive: bool


class Stats(Answer, frozen=True, kw_only=True):
    """The present load of each open shard, the kept statistics of each by slot, oldest first, and
    the last status of each instance.

    `slot_s`: the length of a slot in the log's own time.
    """

    slot_s: float
    shards: dict[str, tuple[ShardSlot, ...]]
    instances: dict[str, InstanceNow]
    loads: dict[str, ShardNow]


class Heatmap(Answer, frozen=True, kw_only=True):
    """Accesses by buckets of keys and slots: `counts[slot][bucket]`, a bucket begins at its start.

    `strip`: one line of blocks along the keys; absent while nothing was learned.
    """

    starts_hex: list[str]
    labels: list[str]
    """The starts as text."""
    slots: list[int]
    counts: list[list[float]]
    closed_slot: int | None = None
    """The newest slot that is over; later ones still grow."""
    strip: str | UnsetType = UNSET


class UnusualSlot(Answer, frozen=True, kw_only=True):
    """A slot that differs from its expected value (`profiler.anomaly.Anomaly`), in operations."""

    shard: str
    slot: int
    kind: AnomalyKind
    value: float
    expected: float
    score: float
    """Distance in usual deviations, signed."""


class ModelScore(Answer, frozen=True, kw_only=True):
    """How a model did at one horizon (`profiler.scoreboard.Score`); None: infinite."""

    wape: float | None
    pinball: float | None
    winkler80: float | None
    winkler95: float | None
    coverage80: float | None
    coverage95: float | None
    width80: float | None
    width95: float | None
    n: int


class ShardTrend(Answer, frozen=True, kw_only=True):
    """Where the load of a shard is going (`profiler.forecast.trend.LoadTrend`), per slot."""

    moving_average: float
    deviation: float
    slope: float
    drift: Drift
    weights: dict[str, float]
    """The models in the forecast of the next slot; they sum to 1."""


class ForecastAnswer(Answer, frozen=True, kw_only=True):
    """Forecasts by shard in operations per slot, anomalies, and the models' scores.

    `wall_s_per_slot`: length of a slot on the wall clock. `learned_slot`: the newest one by
    shard. `score`: model -> slots ahead -> score; absent unless requested.
    """

    slot_s: float
    wall_s_per_slot: float
    learned_slot: dict[str, int]
    forecasts: dict[str, Forecast]
    anomalies: tuple[UnusualSlot, ...]
    """The newest first."""
    trends: dict[str, ShardTrend]
    unwatched_shards: int
    score: dict[str, dict[str, ModelScore]] | UnsetType = UNSET


class Shares(Answer, frozen=True, kw_only=True):
    """How the keys of a balanced log are spread, by instance.

    `shares`: the target share of new keys, they sum to 1. `corrections`: the learned factor of its
    weight. `expected`: keys that it should have by now.
    """

    log: str
    keys: int
    shares: dict[str, float]
    corrections: dict[str, float]
    keys_by_instance: dict[str, int]
    expected: dict[str, float]


class PairUsedTogether(Answer, frozen=True, kw_only=True):
    """Two shards and the partial correlation of their accesses, with where their primaries are."""

    shard: str
    other: str
    correlation: float
    instance: str
    other_instance: str


class LogCorrelations(Answer, frozen=True, kw_only=True):
    """How the accesses of a log's shards go together, in the order of their keys.

    `matrix[i][j]`: of `shards[i]` and `shards[j]`, -1 to 1. `bins`: how many bins were learned.
    """

    shards: list[str]
    bins: int
    matrix: list[list[float]]
    pairs: list[PairUsedTogether]
    """Those that the planner hears of, the strongest first."""
