"""The handle of one copy: the engine's calls with its id, also before the copy is on the disk."""

import pytest

from logstore.base.errors import UnknownShardError
from logstore.base.types import Durability, Position
from logstore.engine.memory import MemoryEngine
from logstore.engine.port import ReplicaMeta, ReplicaWrite
from logstore.engine.shard_log import ShardLog
from tests.unit.replication.test_follower import chain_of

BATCHES = chain_of(b"a", b"b", b"c")


def two_copies() -> tuple[MemoryEngine, ShardLog]:
    """A copy with BATCHES, and an empty neighbour that every call must leave alone."""
    engine = MemoryEngine()
    log = ShardLog(engine, 2)
    engine.create_replica(ReplicaMeta(1, "log/0"))
    log.create(ReplicaMeta(2, "log/1"), None, True)
    engine.write([ReplicaWrite(2, BATCHES, BATCHES[0].end)], Durability.OS)
    return engine, log


def test_a_handle_is_made_before_its_copy() -> None:
    log = ShardLog(MemoryEngine(), 7)
    assert log.meta() is None
    for ask in (log.base, log.end, log.bytes_stored, lambda: log.position_at(0)):
        with pytest.raises(UnknownShardError):
            ask()


def test_a_handle_reads_its_own_copy() -> None:
    engine, log = two_copies()
    end = Position(BATCHES[-1].end, BATCHES[-1].chain_after)
    assert log.end() == end
    assert log.base() == Position()
    assert log.read(0, end.end, 1 << 20) == BATCHES
    assert log.read_last() == BATCHES[-1]
    assert ShardLog(engine, 1).read_last() is None
    assert log.position_at(BATCHES[0].end) == Position(BATCHES[0].end, BATCHES[0].chain_after)
    assert log.verify(log.base(), end.end) == end
    assert log.bytes_stored() == engine.bytes_stored(2) > 0
    found = log.meta()
    assert found is not None
    assert (found.shard, found.high_watermark) == ("log/1", BATCHES[0].end)


def test_a_handle_changes_its_own_copy() -> None:
    engine, log = two_copies()
    log.truncate(BATCHES[1].end)
    assert log.read_last() == BATCHES[1]
    assert log.trim(BATCHES[0].end).end == log.base().end == BATCHES[0].end
    log.drop()
    assert log.meta() is None
    assert [m.replica_id for m in engine.replicas()] == [1]
