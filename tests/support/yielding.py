"""A metadata twin for tests of races: what is read may have changed when it is written."""

import asyncio
from collections.abc import Sequence

from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.port import Compare, Operation, TxnResult


class YieldingStore(MemoryMetadataStore):
    """Others have their turn before each transaction, as while a remote store is asked.

    On the memory twin alone a read and the write that follows from it are one step, so that
    callers under `asyncio.gather` never meet.
    """

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        await asyncio.sleep(0)
        return await super().txn(compares, operations)
