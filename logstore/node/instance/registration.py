"""An instance registers under its name and keeps it: the claim, retried until the store answers.

The registered value is `InstanceRecord`; `claim` decides which process may register.
"""

import asyncio
from functools import partial

import structlog

from logstore.base.errors import AlreadyRunningError, LogstoreError, WrongClusterError
from logstore.meta.records import CapacityRecord, InstanceRecord
from logstore.node.instance.claim import Claim
from logstore.node.instance.copies import InstanceCopies
from logstore.node.instance.identity import Identity
from logstore.node.resources.context import NodeContext

_log = structlog.get_logger(__name__)


class Registration:
    """Of one process. `refused`: why it may not run this instance; nothing was served then."""

    def __init__(self, node: NodeContext, claim: Claim, copies: InstanceCopies) -> None:
        self._node, self._claim, self._copies = node, claim, copies
        self.refused: LogstoreError | None = None
        self.made = asyncio.Event()
        """Set once the name is ours."""
        self._decided = asyncio.Event()

    async def run(self, address: str) -> None:
        """Register as listening at `address`, then keep the name; ends when that is refused."""
        said = ""
        while not self.made.is_set():
            try:
                await self._make(address)
            except (WrongClusterError, AlreadyRunningError) as e:
                _log.critical("refused", why=e.message)
                self.refused = e
                self._decided.set()
                return
            except LogstoreError as e:
                if e.message != said:  # not one line for each try
                    said = e.message
                    _log.warning("not registered yet", error=said)
                await asyncio.sleep(self._node.config.retry_interval_s)
        await self._claim.keep()

    async def decided(self, limit_s: float | None) -> None:
        """Return once the name is ours or refused, or after `limit_s` seconds (None: never)."""
        try:
            async with asyncio.timeout(limit_s):
                await self._decided.wait()
        except TimeoutError:
            return

    async def _make(self, address: str) -> None:
        engine = self._node.engine
        metas = [*engine.replicas(), *(r.meta for r in engine.retired())]
        facts = [f for m in metas if (f := engine.facts(m.replica_id)) is not None]
        await self._claim.make(
            partial(self._record, address), facts, self._copies.mark_short, empty=not metas
        )
        self._node.incarnation = self._claim.identity.incarnation
        self.made.set()
        self._decided.set()

    def _record(self, address: str, identity: Identity) -> InstanceRecord:
        config = self._node.config
        return InstanceRecord(
            instance=config.instance,
            address=address,
            incarnation=identity.incarnation,
            tier=config.tier,
            zone=config.zone,
            capacity=CapacityRecord(
                config.ops_per_s_max, config.bytes_per_s_max, config.stored_bytes_max
            ),
            started_us=self._node.env.clock.wall_us(),
            process=identity.drawn,
        )
