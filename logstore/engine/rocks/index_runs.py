"""Sorted runs of the key index: how they are written, searched and merged.

An entry is one u64: the upper 38 bits of the key's hash, then the record's position after the run's
base in 26 bits. So a run covers up to 2**26 records, sorts as plain integers (5 ns each, without
the GIL), and costs 8 bytes a record. 38 bits of hash name a wrong record once in 4,000 lookups of
the largest run; readers compare keys. Runs are cut into blocks, one value each under the block's
first entry.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from logstore.engine.key_hash import Hashes
from logstore.engine.rocks.layout import IndexRun, index_key, index_key_of
from logstore.engine.rocks.store import INDEX, Batch, Cursor, Store

POSITION_BITS = 26
RUN_RECORDS_MAX = 1 << POSITION_BITS
BLOCK_ENTRIES = 1_024
MERGE_FAN_IN = 8
"""Runs of one size that are merged into one: a lookup reads < 8 runs of each of 4 sizes."""
FIRST_TIER_RECORDS = 131_072
_SLICE_ENTRIES = 262_144

_POSITION = np.uint64(RUN_RECORDS_MAX - 1)
_HASH = np.uint64((1 << 64) - RUN_RECORDS_MAX)


def entries_of(hashes: Hashes) -> Hashes:
    """The sorted entries of a new run over consecutive records."""
    entries = (hashes & _HASH) | np.arange(len(hashes), dtype=np.uint64)
    entries.sort()
    return entries


def put_blocks(batch: Batch, replica_id: int, run_id: int, entries: Hashes) -> None:
    little = entries.astype("<u8", copy=False)
    for at in range(0, len(little), BLOCK_ENTRIES):
        block = little[at : at + BLOCK_ENTRIES]
        batch.put(INDEX, index_key(replica_id, run_id, int(block[0])), block.tobytes())


def delete_run(batch: Batch, replica_id: int, run_id: int) -> None:
    batch.delete_range(
        INDEX, index_key(replica_id, run_id, 0), index_key(replica_id, run_id + 1, 0)
    )


def find(
    cursor: Cursor, replica_id: int, run: IndexRun, key_hash: int, start: int, stop: int
) -> Iterator[npt.NDArray[np.int64]]:
    """Offsets in [start, stop) whose key may have this hash, ascending, block by block."""
    start, stop = max(start, run.base), min(stop, run.end)
    if start >= stop:
        return
    upper_bits = key_hash & int(_HASH)
    low, high = upper_bits | (start - run.base), upper_bits | (stop - 1 - run.base)
    for block in _blocks(cursor, replica_id, run.run_id, low, high):
        yield (block & _POSITION).astype(np.int64) + run.base


def _blocks(cursor: Cursor, replica_id: int, run_id: int, low: int, high: int) -> Iterator[Hashes]:
    """The entries of a run in [low, high], block by block."""
    cursor.seek_for_prev(index_key(replica_id, run_id, low))
    if not cursor.valid() or index_key_of(cursor.key())[:2] != (replica_id, run_id):
        cursor.seek(index_key(replica_id, run_id, low))
    while cursor.valid():
        at = index_key_of(cursor.key())
        if at[:2] != (replica_id, run_id) or at[2] > high:
            return
        block = np.frombuffer(cursor.value(), dtype="<u8")
        first = int(np.searchsorted(block, np.uint64(low), "left"))
        after = int(np.searchsorted(block, np.uint64(high), "right"))
        if first < after:
            yield block[first:after]
        if after < len(block):
            return
        cursor.next()


def choose_merge(runs: Sequence[IndexRun]) -> Sequence[IndexRun]:
    """Neighbouring runs to merge into one, or none. Size-tiered: `runs` are in offset order."""
    limit = FIRST_TIER_RECORDS
    while limit < RUN_RECORDS_MAX:
        first, after = len(runs), len(runs)
        while first > 0 and _records(runs[first - 1]) <= 2 * limit:
            first -= 1
        if limit > FIRST_TIER_RECORDS:  # runs of lower tiers wait for their own merge
            while after > first and _records(runs[after - 1]) < limit // 2:
                after -= 1
        chosen = list(runs[first:after])
        if len(chosen) >= MERGE_FAN_IN:
            while chosen[-1].end - chosen[0].base > RUN_RECORDS_MAX:
                chosen.pop()
            if len(chosen) >= MERGE_FAN_IN // 2:
                return chosen
        limit *= MERGE_FAN_IN
    return ()


def _records(run: IndexRun) -> int:
    return run.end - run.base


def merge(
    store: Store, replica_id: int, runs: Sequence[IndexRun], base: int, merged: IndexRun
) -> Iterator[int]:
    """Write `merged` from `runs` in slices of the hash space; yields the entries of each slice.

    Entries below `base` (trimmed) and from a run's end on (truncated) are left out. The blocks
    have no effect until the manifest names the run; an open deletes a run that was never named.
    """
    total = sum(run.end - run.base for run in runs)
    slices = -(-total // _SLICE_ENTRIES)
    bounds = [((i << (64 - POSITION_BITS)) // slices) << POSITION_BITS for i in range(slices)]
    bounds.append(1 << 64)
    lower, upper = index_key(replica_id, 0, 0), index_key(replica_id + 1, 0, 0)
    for low, high in pairwise(bounds):
        parts = []
        cursor = store.cursor(INDEX, lower, upper)
        for run in runs:
            blocks = list(_blocks(cursor, replica_id, run.run_id, low, high - 1))
            if blocks:
                parts.append(_rebase(np.concatenate(blocks), run, base, merged.base))
        entries = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)
        entries.sort()
        batch = store.batch()
        put_blocks(batch, replica_id, merged.run_id, entries)
        store.write(batch)
        yield len(entries)


def _rebase(entries: Hashes, run: IndexRun, base: int, merged_base: int) -> Hashes:
    positions = entries & _POSITION
    first, after = max(base - run.base, 0), run.end - run.base
    if first > 0 or (len(positions) and int(positions.max()) >= after):
        kept = (positions >= np.uint64(first)) & (positions < np.uint64(after))
        entries, positions = entries[kept], positions[kept]
    # A first run that was trimmed in part has a base below the merged one's.
    shifted = (positions.astype(np.int64) + (run.base - merged_base)).astype(np.uint64)
    return (entries & _HASH) | shifted
