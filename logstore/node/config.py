"""Settings of one instance: `LOGSTORE_NODE_*` in the environment, flags, or keyword arguments."""

from pathlib import Path
from typing import Annotated, Self

from annotated_types import Interval, MaxLen, MinLen, Unit
from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import CliVariadicArg, NoDecode, SettingsConfigDict

from logstore.base.command_line import from_json, json_or
from logstore.meta.open import is_etcd
from logstore.meta.settings import (
    AddressesText,
    AddressText,
    ListenText,
    MetadataSettings,
    PlaceText,
    StoreText,
)
from logstore.replication.state import Timing

_TIMING = Timing()


class NodeConfig(MetadataSettings):
    """Settings of an instance. A value outside its bound is refused with the field's name."""

    model_config = SettingsConfigDict(env_prefix="LOGSTORE_NODE_", extra="forbid")

    instance: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,64}$")]
    """Id of the instance."""
    data: Path
    """Folder of this instance's RocksDB."""
    listen: ListenText = "127.0.0.1:0"
    """host:port to listen on; port 0 takes a free one."""
    advertise: Annotated[AddressText | None, MaxLen(255)] = None
    """host:port that others reach this instance at; default: the one it listens on."""
    metadata: Annotated[
        CliVariadicArg[list[StoreText]], MinLen(1), NoDecode, BeforeValidator(from_json)
    ]
    """host:port of the coordinators, or etcd://HOST:PORT,…"""
    coordinators: Annotated[
        CliVariadicArg[list[AddressText]], NoDecode, BeforeValidator(json_or(list))
    ] = Field(default=[], validate_default=True)
    """host:port of the coordinators, for reports; default: `metadata`."""
    tier: PlaceText = "standard"
    """Kind of machine; 64 bytes at most."""
    zone: PlaceText = "zone-a"
    """Failure domain; 64 bytes at most."""

    ops_per_s_max: Annotated[float | None, Interval(gt=0), Unit("operations/s")] = None
    """Operations that are admitted; default: all, and load goes by an estimate."""
    bytes_per_s_max: Annotated[float | None, Interval(gt=0), Unit("bytes/s")] = None
    """Bytes that are admitted; default: all, and load goes by an estimate."""
    burst_s: Annotated[float, Interval(ge=0.001, le=60), Unit("s")] = 1.0
    """Seconds of capacity that may be saved up."""
    stored_bytes_max: Annotated[int | None, Interval(gt=0), Unit("bytes")] = None
    """Bytes that may be stored here; an append beyond it is refused, and the planner places no
    more; default: what the disk has room for."""

    follower_timeout_s: Annotated[float, Interval(ge=0.1, le=60), Unit("s")] = (
        _TIMING.follower_timeout_s
    )
    """A follower that acks nothing for this long leaves the in-sync set."""
    hand_over_timeout_s: Annotated[float, Interval(ge=0.1, le=60), Unit("s")] = (
        _TIMING.hand_over_timeout_s
    )
    """A hand-over or seal that does not drain in this time is given up."""
    stop_hand_over_s: Annotated[float, Interval(ge=0, le=600), Unit("s")] = 5.0
    """A stop waits this long until others lead; 0: never."""
    lease_s: Annotated[float, Interval(ge=0.1, le=60), Unit("s")] = _TIMING.lease_s
    """Latest reads need an answer of the followers this fresh (P7)."""
    grace_s: Annotated[float, Interval(ge=0.2, le=120), Unit("s")] = _TIMING.grace_s
    """A follower takes over after this much silence of its primary; at least 1.1 x `lease_s`."""
    heartbeat_interval_s: Annotated[float, Interval(ge=0.01, le=5), Unit("s")] = 0.2
    """How often a primary sends a heartbeat to its followers."""
    follower_read_stale_s: Annotated[float, Interval(ge=0.1, le=60), Unit("s")] = 1.0
    """A follower without a heartbeat for this long serves no reads."""
    session_wait_s: Annotated[float, Interval(ge=0, le=10), Unit("s")] = 0.5
    """How long a read waits for records that its client wrote or saw before."""
    retry_interval_s: Annotated[float, Interval(ge=0.01, le=10), Unit("s")] = 0.1
    """Time between two attempts after a failure, to peers and the metadata store."""
    copy_bytes_per_s: Annotated[float, Interval(gt=0), Unit("bytes/s")] = 1e9
    """Bound of the copies that this instance sends and takes."""
    copy_bytes_per_s_min: Annotated[float, Interval(gt=0), Unit("bytes/s")] = 2e6
    """Copies go on at this pace whatever the p99 of appends."""
    copy_bytes_per_s_cluster: Annotated[float | None, Interval(gt=0), Unit("bytes/s")] = None
    """Bound of all copies in the cluster together; default: none."""
    copy_p99_ratio_max: Annotated[float, Interval(ge=1, le=1000), Unit("ratio")] = 1.2
    """A copy slows down when the p99 of appends is this many times the one before it."""
    copy_p99_floor_ms: Annotated[float, Interval(ge=0, le=60_000), Unit("ms")] = 2.0
    """A p99 of appends below this never slows a copy."""
    kafka: Annotated[
        AddressesText | None,
        Field(validation_alias=AliasChoices("kafka", "LOGSTORE_NODE_KAFKA", "LOGSTORE_KAFKA")),
        MaxLen(4096),
    ] = None
    """host:port,… of a Kafka, for feeds that go through it."""
    report_interval_s: Annotated[float, Interval(ge=0.1, le=3600), Unit("s")] = 1.0
    """Time between two reports to the coordinators; they expect their own `report_interval_s`."""
    profile: bool = True
    """Count operations, groups and keys by shard and slot."""
    sample_keys_per_batch: Annotated[int, Interval(ge=0, le=4096), Unit("keys")] = 16
    """Keys of each batch that are sampled for the heatmap; 0 counts as 1."""
    access_samples_per_s: Annotated[int, Interval(ge=0, le=100_000), Unit("accesses/s")] = 1_000
    """Accesses that are kept as samples for `logstore accesses`; 0: none."""
    scrub_interval_s: Annotated[float, Interval(ge=0.1, le=31_536_000), Unit("s")] = 86_400.0
    """Each copy is read back and checked this often."""
    scrub_bytes_per_s: Annotated[float, Interval(ge=1e4), Unit("bytes/s")] = 16e6
    """Bound of what the scrub reads."""
    metrics_listen: Annotated[ListenText | None, MaxLen(255)] = None
    """host:port of /metrics, /healthz and /readyz; default: none."""
    metrics_shards_max: Annotated[int, Interval(ge=0, le=10_000), Unit("shards")] = 200
    """Shards with metrics of their own."""
    read_threads: Annotated[int, Interval(ge=1, le=64), Unit("threads")] = 2
    """Threads that serve reads."""
    replace: bool = False
    """The disk of this instance is lost: begin with an empty one."""
    accept_generation: Annotated[str | None, Field(pattern=r"^[0-9a-f]{16}$")] = None
    """Id of a recovered metadata generation that this directory must accept."""
    reclaim_interval_s: Annotated[float, Interval(ge=0.1, le=3600), Unit("s")] = 5.0
    """Time between two checks of retired copies."""
    disk_free_share_min: Annotated[float, Interval(ge=0, le=1), Unit("share")] = 0.05
    """Below this share of free space retired copies are deleted before their time."""

    tls_ca: Path | None = None
    """CA that signed the members' certificates; default: no TLS."""
    tls_cert: Path | None = None
    """This process's certificate."""
    tls_key: Path | None = None
    """The key of `tls_cert`."""

    @field_validator("coordinators")
    @classmethod
    def _coordinators(cls, given: list[str], info: ValidationInfo) -> list[str]:
        metadata: list[str] = info.data.get("metadata", [])
        if not given and any(is_etcd(address) for address in metadata):
            raise ValueError("at least one address is needed when metadata is etcd")
        return given or metadata

    @model_validator(mode="after")
    def _check_timing(self) -> Self:
        self.timing()
        return self

    def timing(self) -> Timing:
        """The bounds of each copy's replication machine; ValueError if they exclude each other."""
        return Timing(
            follower_timeout_s=self.follower_timeout_s,
            lease_s=self.lease_s,
            grace_s=self.grace_s,
            hand_over_timeout_s=self.hand_over_timeout_s,
        )
