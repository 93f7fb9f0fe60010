"""I2: at most one instance accepts appends for a (shard, epoch); a fenced primary never acks."""

from collections.abc import Iterable, Sequence

from logstore.meta.records import SHARDS, decode_shard
from tests.support.checkers.history import CopyState, MetadataTxn, ServerAck, Violation


def check_acks(acks: Sequence[ServerAck]) -> list[Violation]:
    """Who acked what it stored in an epoch."""
    owner: dict[tuple[str, int], str] = {}
    found = []
    for ack in acks:
        first = owner.setdefault((ack.shard, ack.epoch), ack.instance)
        if first != ack.instance:
            found.append(Violation("I2", f"{ack.instance} acked offset {ack.offset} of {ack.shard} "
                                   f"in epoch {ack.epoch}, as {first} did", ack.at_s))  # fmt: skip
    return found


def check_epochs(txns: Sequence[MetadataTxn]) -> list[Violation]:
    """P1: the primary or the in-sync set never changes without a new epoch, which never falls."""
    found = []
    known: dict[str, tuple[int, str, tuple[int, ...]]] = {}
    for txn in txns:
        for key, value in txn.written.items():
            if not key.startswith(SHARDS) or value is None:
                continue
            record = decode_shard(value)
            members = tuple(sorted(m.replica_id for m in record.in_sync))
            now = (record.epoch, record.primary.instance, members)
            before = known.get(key, now)
            if now[0] < before[0] or (now[0] == before[0] and now != before):
                found.append(Violation("I2", f"revision {txn.revision}: {record.shard} went from "
                                       f"{before} to {now} (epoch, primary, in-sync set)",
                                       txn.at_s))  # fmt: skip
            if record.primary not in record.in_sync:
                found.append(Violation("I2", f"revision {txn.revision}: the primary of "
                                       f"{record.shard} is not in sync", txn.at_s))  # fmt: skip
            known[key] = now
    return found


def check_stamps(copies: Iterable[CopyState]) -> list[Violation]:
    """One epoch stamps one batch at an offset, whatever disk it lies on (committed or not)."""
    seen: dict[tuple[str, int, int], tuple[bytes, str]] = {}
    found = []
    for copy in copies:
        for link in copy.links:
            place = (copy.shard, link.epoch, link.base)
            chain, where = seen.setdefault(place, (link.chain, copy.instance))
            if chain != link.chain and link.base < copy.high_watermark:
                found.append(Violation("I2", f"offset {link.base} of {copy.shard} was stamped twice"
                                       f" in epoch {link.epoch}: {where}, {copy.instance}",
                                       0.0))  # fmt: skip
    return found


def check(
    acks: Sequence[ServerAck], txns: Sequence[MetadataTxn], copies: Iterable[CopyState]
) -> list[Violation]:
    return check_acks(acks) + check_epochs(txns) + check_stamps(copies)
