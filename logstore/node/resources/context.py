"""Shared parts of an instance: its engine, stores, clock and ways to its peers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from grpc.aio import Channel

from logstore.base.env import Env
from logstore.base.steady_clock import SteadyClock
from logstore.engine.port import Engine
from logstore.feed.port import Broker
from logstore.meta.port import MetadataStore
from logstore.meta.records import ShardRecord
from logstore.node.config import NodeConfig
from logstore.node.intake.admission import Admission
from logstore.node.resources.commit import GroupCommit
from logstore.node.resources.copy import Copy
from logstore.node.resources.copy_pace import CopyPace
from logstore.node.statistics.recent_operations import RecentOperations
from logstore.node.statistics.statistics_reporter import StatisticsReporter


@dataclass(slots=True)
class NodeContext:
    """Shared by the parts of one instance; owned by `logstore.node.instance.instance.Instance`."""

    config: NodeConfig
    env: Env
    engine: Engine
    store: MetadataStore
    committer: GroupCommit
    admission: Admission
    reporter: StatisticsReporter
    stamps: SteadyClock
    """The clock that primaries here stamp records with."""
    readers: ThreadPoolExecutor
    incarnation: int
    channel_to: Callable[[str], Channel]
    """A channel to an instance by its id; UnavailableError when its address is unknown."""
    shard_record: Callable[[str], ShardRecord | None]
    """A shard's record by the watch."""
    open_copy: Callable[[str], Copy | None]
    """This instance's own copy of a shard."""
    pace: CopyPace
    acted: Callable[[str, int, ShardRecord, int], None]
    """A copy (shard, replica id) acts on a record of this revision from now on."""
    cluster: Callable[[], str]
    """This cluster's id; empty before it is known."""
    broker: Broker | None = None
    """The broker of feeds; None where none is configured."""
    recent: RecentOperations = field(default_factory=RecentOperations)
    broken: str | None = None
    """Why the instance must be started again: an unexpected failure."""

    @property
    def instance(self) -> str:
        return self.config.instance

    def now_s(self) -> float:
        return self.env.clock.monotonic_s()
