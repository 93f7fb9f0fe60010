"""What `up` reports of its data's earlier life, so that no user meets it in a read that waits.

`up.json` in the data directory keeps how it was started last. The rest compares the
instances and shards in the metadata with the running ones.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from coordinator.local.instance_spec import InstanceSpec, instance_folders
from logstore.base.errors import ConfigError, LogstoreError
from logstore.meta.records import ShardRecord, decode_instance, decode_shard
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import CatalogStub
from logstore.proto.status import called

RUN_FILE = "up.json"
NAMED_MAX = 5
"""Shards named in a sentence; the others are counted."""
CALL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ClusterStart:
    """How a cluster was started. `metadata=None`: the embedded store."""

    replicas: int
    metadata: str | None = None
    instances: tuple[InstanceSpec, ...] = ()
    """Those that were described by `--instance`."""


@dataclass(frozen=True, slots=True)
class Before:
    """The content of a data directory before the start."""

    run: ClusterStart | None
    instances: frozenset[str]


def before(data: Path) -> Before:
    """Read it; a new directory is empty. ConfigError: `up.json` is damaged."""
    path = data / RUN_FILE
    run = None
    try:
        run = msgspec.json.decode(path.read_bytes(), type=ClusterStart)
    except (FileNotFoundError, NotADirectoryError):
        pass  # the cluster reports what is wrong with its directory
    except (OSError, msgspec.DecodeError) as e:
        raise ConfigError(
            f"{path} cannot be read: {e}; it says how this cluster was started last, and may be "
            "deleted"
        ) from None
    found = frozenset(p.name for p in instance_folders(data))
    return Before(run, found)


def check_metadata(data: Path, past: Before, metadata: str | None) -> None:
    """ConfigError when the data was made with another kind of metadata store, which would lack
    its logs, so that its copies would be orphans."""
    embedded = (data / "coordinator" / "store").is_dir()
    last = past.run.metadata if past.run is not None else None
    if metadata is not None and last is None and (embedded or past.run is not None):
        raise ConfigError(
            f"the data in {data} was made with the embedded metadata store, and --metadata is "
            f"{metadata}: leave --metadata out, or take another --data"
        )
    if metadata is None and last is not None:
        raise ConfigError(
            f"the data in {data} was made with --metadata {last}: give it, or take another --data"
        )


def keep(data: Path, run: ClusterStart) -> None:
    """Store how it was started, for the next time."""
    part = data / f"{RUN_FILE}.part"
    part.write_bytes(msgspec.json.encode(run))
    part.replace(data / RUN_FILE)


def notes(
    past: Before,
    run: ClusterStart,
    started: Collection[str],
    registered: Sequence[str],
    shards: Sequence[ShardRecord],
) -> list[str]:
    """Sentences for a person: missing instances and what is lost with them, new ones, changed
    settings.

    `started`: the instances that run now; `registered`: those of the metadata.
    """
    found = [_missing(name, started, shards) for name in sorted(registered) if name not in started]
    if past.instances:
        found += [
            f"{name} is new and empty: it gets shards by moves, drains, the autopilot and new logs"
            for name in sorted(started)
            if name not in past.instances
        ]
    last = past.run
    if last is not None and last.replicas != run.replicas:
        found.append(
            f"--replicas is {run.replicas}, it was {last.replicas}: it is for new logs, those that "
            "exist keep their copies"
        )
    if last is not None and last.metadata != run.metadata:
        found.append(f"--metadata is {run.metadata}, it was {last.metadata}")
    return found


def _missing(name: str, started: Collection[str], shards: Sequence[ShardRecord]) -> str:
    held = [s for s in shards if s.member_on(name) is not None]
    if not held:
        return f"{name} is part of this cluster and not started; it holds no copies"
    dark = [s.shard for s in held if not any(m.instance in started for m in s.in_sync)]
    fewer = [s.shard for s in held if s.shard not in dark]
    said = [f"{name} is part of this cluster and not started; it holds {len(held)} copies"]
    if dark:
        said.append(f"not served: {_few(dark)}")
    if fewer:
        said.append(f"with a copy less: {_few(fewer)}")
    number = name.rpartition("-")[2]
    return "; ".join(said) + (f"; --instances {number} starts it" if number.isdigit() else "")


def _few(shards: Sequence[str]) -> str:
    more = len(shards) - NAMED_MAX
    return ", ".join(shards[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def last_count(past: Before) -> int:
    """How many instances start all that the data holds; 0: it holds none."""
    kept = past.run.instances if past.run is not None else ()
    named = {spec.name for spec in kept}
    numbers = [name.removeprefix("instance-") for name in past.instances - named]
    last = max((int(n) for n in numbers if n.isdigit()), default=0)
    plain = [n for n in range(1, last + 1) if f"instance-{n}" not in named]
    return len(kept) + len(plain)


async def told(
    address: str, past: Before, run: ClusterStart, started: Collection[str]
) -> list[str]:
    """The notes of a cluster that serves at `address`."""
    try:
        registered, shards = await _asked(address)
    except LogstoreError as e:
        return [f"what the data held before is not known: {e.message}"]
    return notes(past, run, started, registered, shards)


async def _asked(address: str) -> tuple[list[str], list[ShardRecord]]:
    """The instances and shards in the answers of the coordinator at `address`."""
    async with open_channel(address) as channel, called():
        stub = CatalogStub(channel)
        rows = await stub.ListInstances(pb.ListInstancesRequest(), timeout=CALL_TIMEOUT_S)
        logs = await stub.ListLogs(pb.ListLogsRequest(), timeout=CALL_TIMEOUT_S)
    registered = [decode_instance(row).instance for row in rows.instances_json]
    shards = [decode_shard(shard) for log in logs.logs for shard in log.shards_json]
    return registered, shards
