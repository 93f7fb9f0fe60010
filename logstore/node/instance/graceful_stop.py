"""A graceful stop: others lead our shards before we stop, and no ack needs us.

Nothing is copied: the next primaries are in sync already, and our own copies stay on the disk as
learners, which repair lets join again once they report. So a restart costs a hand-over a shard (H1,
H2) and not a failover, and no append waits for a follower that is gone. A shard that cannot be
handed over is left to the failover.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from logstore.base.errors import LogstoreError
from logstore.base.types import ShardStatus
from logstore.meta.records import Member, ShardRecord
from logstore.meta.shard_writes import keep_copies
from logstore.replication import changes
from logstore.replication.events import Role
from logstore.replication.progress import ProgressMode

if TYPE_CHECKING:
    from logstore.node.instance.instance import Instance
    from logstore.node.instance.replica import Replica

POLL_S = 0.02
HEARD_S = 1.0
"""The next primary has answered within this time."""
_log = structlog.get_logger(__name__)


async def hand_over_all(instance: "Instance", limit_s: float) -> None:
    """Hand over the led shards, then leave the in-sync sets; `limit_s` seconds at most, never
    raises.

    Only shards that we lead now: of several instances that stop at the same time each hands over
    once, and none passes on what another one gave it.
    """
    if limit_s <= 0:
        return
    led = {r.shard for r in _open(instance) if r.role is Role.PRIMARY}
    try:
        async with asyncio.timeout(limit_s):
            while True:
                if not await _lead_away(instance, led):
                    break
                await asyncio.sleep(POLL_S)
            await asyncio.gather(*(_step_down(instance, r) for r in _open(instance)))
    except TimeoutError:
        left = [r.shard for r in _open(instance) if r.shard in led and r.role is Role.PRIMARY]
        _log.info("stops before all was handed over", shards=left[:8], count=len(left))
    except LogstoreError as e:
        _log.info("stops without handing over", error=e.message)


def _open(instance: "Instance") -> list["Replica"]:
    """Copies of open shards without an active move: a move handles our end by itself."""
    found = []
    for replica in instance.replicas.values():
        record = replica.machine.record
        if record is not None and record.status is ShardStatus.OPEN and record.migration is None:
            found.append(replica)
    return found


async def _lead_away(instance: "Instance", led: set[str]) -> bool:
    """Order each possible hand-over; whether one is still to come."""
    leads = Counter(r.primary.instance for r, _ in instance.metadata_view.shards.values())
    waiting = False
    for replica in _open(instance):
        if replica.role is not Role.PRIMARY or replica.shard not in led:
            continue
        heir = _heir(replica, leads)
        if heir is None:
            continue
        waiting = True
        if replica.record.hand_over is None:
            leads[heir.instance] += 1
            await _write(instance, replica, _led_by(heir))
    return waiting


def _heir(replica: "Replica", leads: Counter[str]) -> Member | None:
    """The in-sync instance with a recent answer that leads fewest shards."""
    now_s, peers = replica.node.now_s(), replica.machine.peers
    fit = []
    for member in replica.record.in_sync:
        progress = peers.get(member.replica_id)
        if progress is None or progress.mode is not ProgressMode.REPLICATE:
            continue
        if now_s - progress.heard_s <= HEARD_S:
            fit.append(member)
    return min(fit, key=lambda m: (leads[m.instance], m.instance), default=None)


def _led_by(heir: Member) -> Callable[[ShardRecord], ShardRecord]:
    """H1: the intent that the primary, which is us, carries out."""

    def change(record: ShardRecord) -> ShardRecord:
        return replace(record, hand_over=heir.replica_id)

    return change


async def _step_down(instance: "Instance", replica: "Replica") -> None:
    """P3: a member that removes itself. The copy stays; repair has it admitted when it is back."""
    if replica.role is not Role.FOLLOWER:
        return
    mine = replica.member.replica_id

    def without_us(record: ShardRecord) -> ShardRecord:
        member = next((m for m in record.in_sync if m.replica_id == mine), None)
        if member is None or member == record.primary:
            return record
        if len(record.in_sync) - 1 < max(1, record.min_in_sync):
            return record
        return changes.demoted(record, member)

    if await _write(instance, replica, without_us):
        replica.copy.stepped_down = True


async def _write(
    instance: "Instance", replica: "Replica", change: Callable[[ShardRecord], ShardRecord]
) -> bool:
    """One compare-and-swap on what this copy knows; a lost race is seen in the next round."""
    before, revision = replica.record, replica.machine.revision
    after = change(before)
    if after == before:
        return False
    write = keep_copies(before, revision, after)
    return (await instance.node.store.txn([write.compare], write.operations)).succeeded
