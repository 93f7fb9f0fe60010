"""One copy without an instance: the real machine, log and context that its parts are given."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from grpc.aio import Channel

from logstore.base.background import Background
from logstore.base.env import Env, ManualClock
from logstore.base.errors import UnavailableError
from logstore.base.types import Position, ShardStatus
from logstore.engine.memory import MemoryEngine
from logstore.engine.port import ReplicaMeta
from logstore.engine.shard_log import ShardLog
from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.records import LogOptions, Member, ShardRecord
from logstore.node.config import NodeConfig
from logstore.node.intake.admission import Admission
from logstore.node.resources.commit import GroupCommit
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy, CopyEvent
from logstore.node.resources.copy_pace import CopyPace
from logstore.node.statistics.statistics_reporter import StatisticsReporter
from logstore.replication.events import ConfigRead
from logstore.replication.machine import ReplicationMachine
from sharder.keys import KeyRange

SHARD = "orders/0"
US, PEER = Member("i1", 1, 1), Member("i2", 1, 2)
LED = ShardRecord(SHARD, "orders", KeyRange(), ShardStatus.OPEN, 1, 1, US, (US,))
"""We lead alone."""
FOLLOWED = replace(LED, primary=PEER, in_sync=(PEER, US))
LEARNED = replace(LED, primary=PEER, in_sync=(PEER,), learners=(US,))


def no_channel(instance: str) -> Channel:
    raise UnavailableError(f"the address of instance {instance} is not known")


def context(engine: MemoryEngine, clock: ManualClock) -> NodeContext:
    """Of an instance that reaches no other; its group commit is not running."""
    config = NodeConfig(instance="i1", data=Path("unused"), metadata=["127.0.0.1:1"])
    env = Env(clock)
    reporter = StatisticsReporter(config, env)
    return NodeContext(
        config=config,
        env=env,
        engine=engine,
        store=MemoryMetadataStore(),
        committer=GroupCommit(engine),
        admission=Admission(None, None, 1.0),
        reporter=reporter,
        stamps=reporter.clock,
        readers=ThreadPoolExecutor(1),
        incarnation=1,
        channel_to=no_channel,
        shard_record=lambda _: None,
        open_copy=lambda _: None,
        pace=CopyPace(config, clock.monotonic_s, lambda: 1),
        acted=lambda *_: None,
        cluster=lambda: "tests",
    )


@dataclass
class OneCopy:
    """What a part's constructor takes, and what it reported."""

    node: NodeContext
    clock: ManualClock
    tasks: Background
    reported: list[CopyEvent] = field(default_factory=list)
    revision: int = 0
    machine: ReplicationMachine = field(init=False)
    """Of the newest copy."""

    async def nothing(self) -> None:
        """Reads no configuration."""

    def config(self, record: ShardRecord) -> None:
        """The newest copy reads `record`."""
        self.revision += 1
        self.machine.handle(ConfigRead(record, self.revision), self.clock.monotonic_s())

    def open(
        self, record: ShardRecord = LED, me: Member = US, options: LogOptions | None = None
    ) -> Copy:
        """A copy that has read `record`; on the disk if the engine has it by now."""
        log = ShardLog(self.node.engine, me.replica_id)
        end = log.end() if log.meta() is not None else Position()
        self.machine = ReplicationMachine(me, end, 0)
        self.config(record)
        return Copy(
            record.shard,
            log,
            options or LogOptions(),
            self.machine,
            instance="i1",
            now_s=self.node.now_s,
            stale_s=self.node.config.follower_read_stale_s,
            report=self.reported.append,
            spawn=self.tasks.start,
        )

    def create(self, replica_id: int = US.replica_id, shard: str = SHARD) -> ShardLog:
        """An empty copy on the disk."""
        self.node.engine.create_replica(ReplicaMeta(replica_id, shard))
        return ShardLog(self.node.engine, replica_id)


@asynccontextmanager
async def one_copy() -> AsyncIterator[OneCopy]:
    """Its group commit runs; all tasks end with the block."""
    clock = ManualClock()
    node = context(MemoryEngine(), clock)
    tasks = Background("one copy")
    tasks.start(node.committer.run(), "commit")
    yield OneCopy(node, clock, tasks)
    await tasks.stop()
    node.readers.shutdown()
