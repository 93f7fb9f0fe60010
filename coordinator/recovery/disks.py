"""Data directories of stopped instances: opened, read, held until recovery is over."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from coordinator.local.instance_spec import instance_folders
from coordinator.recovery.facts import DiskScan, FoundCopy, FoundInstance, records_of
from logstore.base.errors import ConfigError, CorruptStorageError, StorageError
from logstore.engine.port import Engine, ReplicaMeta
from logstore.engine.rocks import RocksEngine
from logstore.node.instance.identity import FILE, accept

Accept = Callable[[Path, str, str, int], None]
"""(directory, cluster, generation, revision): the directory accepts the generation by hand."""


class _Identity(msgspec.Struct, frozen=True):
    """The part of `logstore.node.instance.identity` that recovery needs."""

    instance: str
    cluster: str = ""
    incarnation: int = 0
    process: int = 0
    generation: str = ""
    revision: int = 0


class Disks(AbstractContextManager["Disks"]):
    """Holds the directories: no instance can start on them meanwhile.

    Errors of the constructor: `DirectoryInUseError` while a process has one, `ConfigError` for a
    directory without an instance, `StorageError` and `CorruptStorageError`.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self._engines: list[tuple[FoundInstance, RocksEngine]] = []
        self._paths: list[Path] = []
        self._known: tuple[FoundInstance, ...] = ()
        try:
            for directory in directories:
                found = read_identity(directory)
                self._engines.append((found, RocksEngine.open(directory)))
                self._paths.append(directory)
                self._known += (found,)
        except BaseException:
            self.close()
            raise

    def scan(self) -> DiskScan:
        """The identities, and every copy in the directories."""
        copies = [copy for found, engine in self._engines for copy in copies_of(found, engine)]
        return DiskScan(tuple(found for found, _ in self._engines), tuple(copies))

    @property
    def scanned(self) -> tuple[FoundInstance, ...]:
        """The instances whose directories are held."""
        return self._known

    def accept(
        self, cluster: str, generation: str, revision: int, how: Accept | None = None
    ) -> None:
        """Make every directory accept the generation, as an operator does by hand."""
        for path in self._paths:
            (how or accept)(path, cluster, generation, revision)

    def close(self) -> None:
        engines, self._engines = self._engines, []
        for _, engine in engines:
            engine.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def read_identity(directory: Path) -> FoundInstance:
    """The identity in the directory."""
    path = directory / FILE
    if not directory.is_dir():
        raise ConfigError(f"{directory} is no directory")
    if not path.exists():
        raise ConfigError(
            f"{directory} holds no {FILE}: it is no instance's data directory, or its instance "
            "never started since data directories know their cluster"
        )
    try:
        known = msgspec.json.decode(path.read_bytes(), type=_Identity)
    except (OSError, msgspec.DecodeError) as e:
        raise StorageError(f"{path}: {e}") from e
    return FoundInstance(
        known.instance, known.cluster, known.incarnation, known.process, known.generation,
        known.revision, str(directory),
    )  # fmt: skip


def instance_directories(data: Path) -> list[Path]:
    """The directories below a folder of `logstore up`, in the order of their numbers."""
    found = instance_folders(data)
    if not found:
        raise ConfigError(f"{data} has no folder instance-*: it is not a folder of `logstore up`")
    return found


def copies_of(found: FoundInstance, engine: Engine) -> list[FoundCopy]:
    """Every copy on one disk, retired ones too."""
    copies = [_copy(found, engine, meta) for meta in engine.replicas()]
    for retired in engine.retired():
        meta = retired.meta
        record, log, cluster, generation, revision = _facts(engine, meta.replica_id)
        copies.append(
            FoundCopy(
                found.instance, meta.replica_id, meta.shard, cluster, generation, revision,
                record, log, meta.base.end, retired.end.end, retired.end.chain,
                record.epoch if record is not None else 0, retired.bytes_stored, meta.damage,
                meta.tail_lost, retired.retired.cause, retired.retired.revision,
                retired.retired.keep_until_us,
            )
        )  # fmt: skip
    return copies


def _copy(found: FoundInstance, engine: Engine, meta: ReplicaMeta) -> FoundCopy:
    record, log, cluster, generation, revision = _facts(engine, meta.replica_id)
    end, damage, last_epoch = engine.end(meta.replica_id), meta.damage, 0
    if end.end > meta.base.end and not damage:
        try:
            last_epoch = engine.read(meta.replica_id, end.end - 1, end.end, 1)[-1].epoch
        except CorruptStorageError as e:
            damage = e.message
    return FoundCopy(
        found.instance, meta.replica_id, meta.shard, cluster, generation, revision, record, log,
        meta.base.end, end.end, end.chain, last_epoch, engine.bytes_stored(meta.replica_id), damage,
        meta.tail_lost,
    )  # fmt: skip


def _facts(engine: Engine, replica_id: int) -> tuple:  # type: ignore[type-arg]
    facts = engine.facts(replica_id)
    if facts is None:
        return None, None, "", "", 0
    return *records_of(facts), facts.cluster, facts.generation, facts.revision
