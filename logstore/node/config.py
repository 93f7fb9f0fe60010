"""Settings of one instance: `LOGSTORE_NODE_*` in the environment, or keyword arguments."""

from pathlib import Path

from pydantic import AliasChoices, Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from logstore.meta.open import is_etcd
from logstore.meta.settings import (
    AddressesText,
    AddressText,
    ListenText,
    MetadataSettings,
    PlaceText,
    StoreText,
)


class NodeConfig(MetadataSettings):
    """Every field with its unit and bound; a value outside is refused with the field's name."""

    model_config = SettingsConfigDict(env_prefix="LOGSTORE_NODE_", extra="forbid")

    instance: str = Field(pattern=r"^[a-zA-Z0-9._-]{1,64}$", description="instance id")
    data: Path = Field(description="folder of this instance's RocksDB")
    listen: ListenText = Field(
        default="127.0.0.1:0", description="host:port; port 0 takes a free one"
    )
    advertise: AddressText | None = Field(
        default=None, max_length=255, description="host:port that others reach us at; default ours"
    )
    metadata: list[StoreText] = Field(
        min_length=1, description="host:port of the coordinators, or etcd://HOST:PORT,…"
    )
    coordinators: list[AddressText] = Field(
        default=[], validate_default=True,
        description="host:port of the coordinators, for reports; default: metadata",
    )  # fmt: skip
    tier: PlaceText = Field(default="standard", description="kind of machine; 64 bytes at most")
    zone: PlaceText = Field(default="zone-a", description="what fails together; 64 bytes at most")

    ops_per_s_max: float | None = Field(default=None, gt=0, description="admitted operations/s")
    bytes_per_s_max: float | None = Field(default=None, gt=0, description="admitted bytes/s")
    burst_s: float = Field(
        default=1.0, ge=0.001, le=60, description="seconds of capacity that may be saved up"
    )
    stored_bytes_max: int | None = Field(default=None, gt=0)

    follower_timeout_s: float = Field(default=1.5, ge=0.1, le=60)
    hand_over_timeout_s: float = Field(default=5.0, ge=0.1, le=60)
    stop_hand_over_s: float = Field(
        default=5.0, ge=0, le=600, description="a stop waits this long until others lead; 0: never"
    )
    lease_s: float = Field(
        default=1.5, ge=0.1, le=60, description="latest reads need an answer this fresh (P7)"
    )
    grace_s: float = Field(
        default=1.9, ge=0.2, le=120, description="a follower in silence takes over after it"
    )
    heartbeat_interval_s: float = Field(default=0.2, ge=0.01, le=5)
    follower_read_stale_s: float = Field(
        default=1.0, ge=0.1, le=60, description="a follower without heartbeat this long serves none"
    )
    session_wait_s: float = Field(default=0.5, ge=0, le=10)
    retry_interval_s: float = Field(default=0.1, ge=0.01, le=10)
    copy_bytes_per_s: float = Field(
        default=1e9, gt=0, description="bound of the copies that this instance sends and takes"
    )
    copy_bytes_per_s_min: float = Field(
        default=2e6, gt=0, description="copies go on at this pace whatever the p99 of appends"
    )
    copy_bytes_per_s_cluster: float | None = Field(
        default=None, gt=0, description="bound of all copies in the cluster together"
    )
    copy_p99_ratio_max: float = Field(
        default=1.2, ge=1, le=1000, description="p99 of appends during a copy over the one before"
    )
    copy_p99_floor_ms: float = Field(
        default=2.0, ge=0, le=60_000, description="a p99 below this never slows a copy"
    )
    kafka: AddressesText | None = Field(
        default=None, validation_alias=AliasChoices("kafka", "LOGSTORE_KAFKA"), max_length=4096,
        description="host:port,… of a Kafka, for feeds that go through it",
    )  # fmt: skip
    report_interval_s: float = Field(default=1.0, ge=0.1, le=3600)
    profile: bool = Field(
        default=True, description="count operations, groups and keys by shard and slot"
    )
    sample_keys_per_batch: int = Field(default=16, ge=0, le=4096)
    scrub_interval_s: float = Field(
        default=86_400.0, ge=0.1, le=31_536_000, description="each copy is read back this often"
    )
    scrub_bytes_per_s: float = Field(
        default=16e6, ge=1e4, description="bound of what the scrub reads"
    )
    metrics_listen: ListenText | None = Field(
        default=None, max_length=255, description="host:port of /metrics, /healthz and /readyz"
    )
    metrics_shards_max: int = Field(
        default=200, ge=0, le=10_000, description="shards with metrics of their own"
    )
    read_threads: int = Field(default=2, ge=1, le=64)
    replace: bool = Field(
        default=False, description="the disk of this instance is lost: begin with an empty one"
    )
    accept_generation: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{16}$",
        description="id of a recovered metadata generation that this directory shall accept",
    )  # fmt: skip
    reclaim_interval_s: float = Field(
        default=5.0, ge=0.1, le=3600, description="how often retired copies are looked at"
    )
    disk_free_share_min: float = Field(
        default=0.05, ge=0, le=1,
        description="below it retired copies are deleted before their time",
    )  # fmt: skip

    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @field_validator("coordinators")
    @classmethod
    def _coordinators(cls, given: list[str], info: ValidationInfo) -> list[str]:
        metadata: list[str] = info.data.get("metadata", [])
        if not given and any(is_etcd(address) for address in metadata):
            raise ValueError("at least one address is needed when metadata is etcd")
        return given or metadata
