"""The values of the metadata store, one JSON value a key, and the keys' names.

One key per shard, changed only by compare-and-swap on the revision that the
decision was read from (G1). Parties act on *intents* that they read here, never on a message alone:
`admit` (S adds T, P3), `hand_over` (H1), `remove` (P3); so after kill -9 of any party the next one
has all that it needs to go on.
"""

from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from annotated_types import Interval, Unit

from logstore.base.limits import REPLICAS_MAX
from logstore.base.types import Compression, Durability, ShardStatus, TimestampPolicy
from sharder.keys import KeyRange, Partitioner

LOGS = "/logs/"
SHARDS = "/shards/"
INSTANCES = "/instances/"
MIGRATIONS = "/migrations/"
CHANGEFEEDS = "/changefeeds/"
CELLS = "/cells/"
CELL_COUNT = "/settings/cells"
"""Into how many cells the shard space is divided; written once."""
PLANNER = "/planner/"
WEIGHTS = "/weights/"
AUTOPILOT = "/settings/autopilot"
"""The autopilot's mode as it was last set by hand."""
COORDINATORS = "/coordinators/"
DRAINS = "/drains/"
REPLICA_COUNTER = "/ids/replica"
CLUSTER_ID = "/ids/cluster"
"""Drawn once, with the first generation; in every data directory, stored copy and handshake."""
GENERATIONS = "/generations/"
"""One key a generation; the revision that wrote it is the generation's first."""
GENERATION = "/ids/generation"
"""Id of the newest generation, written in the same transaction as its key."""
PROCESSES = "/processes/"
"""The process that runs an instance now; each key is under its process's lease."""
TOMBSTONES = "/tombstones/"
"""Orders to an instance to retire copies; absence of a record is not an order (P9)."""

MAPPING_SUFFIX = ".placement"
"""The mapping log of a balanced log has its name with this suffix; no other log may end so."""


def mapping_log(log: str) -> str:
    """The log that holds key -> token (8 bytes) of a balanced log; a key's first record counts."""
    return f"{log}{MAPPING_SUFFIX}"


def log_key(log: str) -> str:
    return f"{LOGS}{log}"


def shard_key(shard: str) -> str:
    """`shard` is `<log>/<number>`."""
    return f"{SHARDS}{shard}"


def shard_prefix(log: str) -> str:
    """Every shard of one log is below this prefix."""
    return f"{SHARDS}{log}/"


def instance_key(instance: str) -> str:
    return f"{INSTANCES}{instance}"


def generation_key(generation: str) -> str:
    """Its value is a `GenerationRecord`."""
    return f"{GENERATIONS}{generation}"


def process_key(instance: str) -> str:
    """Its value is a `ProcessRecord`, under the process's lease."""
    return f"{PROCESSES}{instance}"


def tombstone_prefix(instance: str) -> str:
    """Every unconfirmed tombstone of one instance is below this prefix."""
    return f"{TOMBSTONES}{instance}/"


def tombstone_key(instance: str, replica_id: int) -> str:
    """Its value is a `Tombstone`; the instance deletes it when it has retired the copy."""
    return f"{tombstone_prefix(instance)}{replica_id}"


def migration_key(migration: str) -> str:
    return f"{MIGRATIONS}{migration}"


def coordinator_key(address: str) -> str:
    """A living coordinator, under its lease; its value is a `LeaderRecord`."""
    return f"{COORDINATORS}{address}"


def drain_key(instance: str) -> str:
    return f"{DRAINS}{instance}"


def changefeed_key(shard: str) -> str:
    """How far a shard's change stream was published; its value is a `ChangefeedCursor`."""
    return f"{CHANGEFEEDS}{shard}"


def cell_leader_key(cell: str) -> str:
    """The election key of a cell; its value is a `LeaderRecord`."""
    return f"{CELLS}{cell}/leader"


@dataclass(frozen=True, slots=True)
class LeaderRecord:
    """The leader. `attempt` is drawn each time, so that a candidate recognises its own write."""

    candidate: str
    address: str
    attempt: int


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Options of a log. `coordinator.catalog.catalog` checks their bounds."""

    partitioner: Partitioner = Partitioner.RANGE
    """The keys that shards are ranges of: keys, their hashes, or balanced virtual shard keys."""
    replicas: Annotated[int, Interval(ge=1, le=REPLICAS_MAX), Unit("copies")] = 1
    """Copies of each shard; default: the coordinator's `replicas`."""
    min_in_sync: Annotated[int, Unit("copies")] = 1
    """Copies that must be in sync for an ack, 1 to `replicas`; default: more than half."""
    durability: Durability = Durability.OS
    """An ack means that a record is in the page cache of each copy, or on its disk."""
    compression: Compression = Compression.NONE
    """How batches are compressed on the disk."""
    key_index: bool = True
    """Keep an index of the keys, for reads by key."""
    event_time: bool = False
    """Statistics are kept by the records' own timestamps."""
    retention_s: Annotated[float | None, Unit("s")] = None
    """Refused until it acts."""
    retention_bytes: Annotated[int | None, Unit("bytes")] = None
    """Refused until it acts."""
    changefeed: str | None = None
    """A Kafka topic that every committed record is published to."""
    timestamp_ahead_max_s: Annotated[float | None, Interval(ge=0, le=1e9), Unit("s")] = 3600.0
    """How far ahead of the primary's clock a producer's timestamp may be; null: without a limit."""
    timestamp_policy: TimestampPolicy = TimestampPolicy.REFUSE
    """A timestamp that is further ahead is refused, or set to the limit."""
    placement_randomness: Annotated[float, Interval(ge=0.0, le=1.0), Unit("(share)")] = 0.5
    """Of a balanced log: 1 draws each new key by headroom alone; with less, 1 - this of the keys
    go to the emptier of their two first draws."""
    placement_weights: Annotated[dict[str, float], Interval(ge=0.0, le=1e6), Unit("(factor)")] = (
        field(default_factory=dict)
    )
    """Of a balanced log: instance -> how many times its share of the new keys it gets; 0: none."""


@dataclass(frozen=True, slots=True)
class ChangefeedCursor:
    """Records below `offset` are in the topic."""

    offset: int


@dataclass(frozen=True, slots=True)
class LogRecord:
    name: str
    options: LogOptions
    next_shard: int
    created_us: int
    shards_created: int | None = None
    """Shards that it was created with: merges leave so many. None: not known."""


@dataclass(frozen=True, slots=True)
class Member:
    """One copy of a shard: the instance, its incarnation when it joined, and the copy's own id.

    The replica id is drawn once per copy, so a late "delete" cannot hit the next copy (P9).
    """

    instance: str
    incarnation: int
    replica_id: int


@dataclass(frozen=True, slots=True)
class PossibleLoss:
    """P6: a copy that was not whole had to lead from `epoch` on, as no other was there.

    Acked records at `offset` and above may be gone; their number is unknown, and the offsets are
    assigned again.
    """

    epoch: int
    offset: int
    cause: str


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """Configuration of one shard, on which its replicas and routers act."""

    shard: str
    log: str
    range: KeyRange
    status: ShardStatus
    epoch: int
    primary_since: int
    primary: Member
    in_sync: tuple[Member, ...]
    learners: tuple[Member, ...] = ()
    min_in_sync: int = 1
    trim_at: int = 0
    sealed_end: int | None = None
    sealed_chain: bytes | None = None
    predecessors: tuple[str, ...] = ()
    successors: tuple[str, ...] = ()
    route: dict[str, float] = field(default_factory=dict)
    """instance -> share of reads (and of forwarded appends) it gets; the rest is the primary's."""
    migration: str | None = None
    admit: tuple[int, ...] = ()
    """Replica ids of learners that the primary may add to the in-sync set (P3)."""
    hand_over: int | None = None
    """Replica id of the in-sync member that the primary must make primary (H1)."""
    remove: tuple[int, ...] = ()
    """Replica ids that the primary must drop from the in-sync set (P3)."""
    seal: str | None = None
    """Id of the reshape that wants the primary to seal this shard (S1)."""
    first_members: tuple[int, ...] = ()
    """Replica ids that a split, merge or copy-on-write opened this shard with, in place."""
    copy_bytes_per_s: float = 0.0
    """Bound that a migration asks for its learner's snapshot copy; 0: the instance's own."""
    feed_topic: str = ""
    """The primary publishes to this topic, the learner reads it; empty: the feed is direct."""

    possible_loss: tuple[PossibleLoss, ...] = ()
    """Newest last; shown to people, never removed by itself."""

    def members(self) -> tuple[Member, ...]:
        """Every copy that must not be deleted: in-sync set and learners."""
        return self.in_sync + self.learners

    def member_on(self, instance: str) -> Member | None:
        return next((m for m in self.members() if m.instance == instance), None)


@dataclass(frozen=True, slots=True)
class CapacityRecord:
    """The capacity that an instance admits; None is unlimited. Enforced by the instance itself."""

    ops_per_s: float | None = None
    bytes_per_s: float | None = None
    stored_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """A part of this store's history: from the revision of its key to the next one's.

    A store that was put back from a copy starts a new one. So a revision in a
    generation which the store does not hold, or not so far, shows that the store is another.
    """

    id: str
    cause: str
    """`created`, `opened` (a coordinator began with the store), `adopted` or `recovered`."""
    by: str
    began_us: int


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """The process that runs an instance. `witness` names the lock file that it holds: a process
    that holds the same lock knows that this one is gone."""

    instance: str
    process: int
    address: str
    witness: str


@dataclass(frozen=True, slots=True)
class Tombstone:
    """P9: the copy `replica_id` of `shard` on `instance` left its shard's record for good.

    `revision`: of the shard record that it was decided from. `keep_s`: how long the retired copy
    stays on the disk.
    """

    cluster: str
    instance: str
    shard: str
    replica_id: int
    revision: int
    cause: str
    keep_s: float
    created_us: int


@dataclass(frozen=True, slots=True)
class DrainRecord:
    """An instance that must be emptied. `copies`: how many it held when the drain began."""

    instance: str
    begun_us: int
    copies: int


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """A registered instance; its `incarnation` survives kill -9 on the same boot.

    `process`: the number that its last process drew, or drew when it stopped; a data directory that
    does not know it is old or a copied one. 0: registered before such numbers existed.
    """

    instance: str
    address: str
    incarnation: int
    tier: str = "standard"
    zone: str = "zone-a"
    capacity: CapacityRecord = CapacityRecord()
    started_us: int = 0
    process: int = 0


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """The announced load of a client group: `ops_per_s` in each `step_s` from `start_s` on.

    Seconds are Unix seconds of the logs' own time. With `repeats` it starts again at its end. Of
    all shards of `logs` together (empty: of all logs).
    """

    group: str
    start_s: float
    step_s: float
    ops_per_s: tuple[float, ...]
    repeats: bool = False
    logs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WeightRecord:
    """A shard's migration weight as a person set it; 0: the planner never moves it."""

    weight: Annotated[float, Interval(ge=0.0, le=100.0), Unit("(factor)")]
    by: str
    at_us: int


SettingValue = float | int | str | tuple[str, ...] | None
"""A value of a planner's setting, as JSON."""


@dataclass(frozen=True, slots=True)
class LiveSetting:
    """A planner's setting that was changed while it ran: its value, who changed it, and when."""

    value: SettingValue
    by: str
    at_us: int


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One change of one setting. `new` of a `reset` is the value at the start, which came back."""

    at_us: int
    by: str
    name: str
    old: SettingValue
    new: SettingValue
    reset: bool = False


@dataclass(frozen=True, slots=True)
class PlannerRecord:
    """The planner's settings that were changed while it ran, by name; the last changes, oldest
    first."""

    settings: dict[str, LiveSetting] = field(default_factory=dict)
    changes: tuple[SettingChange, ...] = ()


def encode(record: object) -> bytes:
    """A record as JSON bytes (KeyRange and bytes fields as base64)."""
    return msgspec.json.encode(record)


def decode_log(value: bytes) -> LogRecord:
    return msgspec.json.decode(value, type=LogRecord)


def decode_shard(value: bytes) -> ShardRecord:
    return msgspec.json.decode(value, type=ShardRecord)


def decode_instance(value: bytes) -> InstanceRecord:
    return msgspec.json.decode(value, type=InstanceRecord)


def decode_generation(value: bytes) -> GenerationRecord:
    return msgspec.json.decode(value, type=GenerationRecord)


def decode_process(value: bytes) -> ProcessRecord:
    return msgspec.json.decode(value, type=ProcessRecord)


def decode_tombstone(value: bytes) -> Tombstone:
    return msgspec.json.decode(value, type=Tombstone)


def decode_drain(value: bytes) -> DrainRecord:
    return msgspec.json.decode(value, type=DrainRecord)


def decode_cursor(value: bytes) -> ChangefeedCursor:
    return msgspec.json.decode(value, type=ChangefeedCursor)


def decode_leader(value: bytes) -> LeaderRecord:
    return msgspec.json.decode(value, type=LeaderRecord)


def decode_weight(value: bytes) -> WeightRecord:
    return msgspec.json.decode(value, type=WeightRecord)


def decode_planner(value: bytes) -> PlannerRecord:
    return msgspec.json.decode(value, type=PlannerRecord)
