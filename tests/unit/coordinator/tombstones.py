"""A metadata twin that refuses what P9 forbids: a copy that leaves without a tombstone."""

from collections.abc import Sequence

from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.port import Compare, Delete, Operation, Put, TxnResult
from logstore.meta.records import (
    SHARDS,
    TOMBSTONES,
    Member,
    Tombstone,
    decode_shard,
    decode_tombstone,
    tombstone_key,
)


class WatchedStore(MemoryMetadataStore):
    """Every transaction that succeeds is checked, by any writer."""

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        before = {item.key: item for item in (await self.range(SHARDS)).items}
        result = await super().txn(compares, operations)
        if result.succeeded:
            puts = {op.key: op.value for op in operations if isinstance(op, Put)}
            for operation in operations:
                held = before.get(operation.key)
                if held is None:
                    continue
                value = None if isinstance(operation, Delete) else operation.value
                stay = {m.replica_id for m in decode_shard(value).members()} if value else set()
                for member in decode_shard(held.value).members():
                    if member.replica_id not in stay:
                        _check(member, held.key.removeprefix(SHARDS), held.revision, puts)
        return result

    async def tombstones(self) -> list[Tombstone]:
        return [decode_tombstone(i.value) for i in (await self.range(TOMBSTONES)).items]


def _check(member: Member, shard: str, revision: int, puts: dict[str, bytes]) -> None:
    key = tombstone_key(member.instance, member.replica_id)
    assert key in puts, f"copy {member} of {shard} left its record without a tombstone"
    answer = decode_tombstone(puts[key])
    named = (answer.instance, answer.shard, answer.replica_id, answer.revision)
    assert named == (member.instance, shard, member.replica_id, revision)
    assert answer.cluster
    assert answer.cause
