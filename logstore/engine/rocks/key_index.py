"""The key index of one copy: off the append path, searched together with the unindexed tail.

A small log-structured tree over records in offset order: sorted runs on disk (`index_runs`), then
the hashes of the latest records in memory, one per record in order, then the unindexed tail, which
a lookup hashes itself and leaves in memory for the next. The memory part becomes a run once it is
FIRST_TIER_RECORDS long; after a restart it is hashed again from the log. The blocks of a run and
the manifest that names it (and so how far the disk's index reaches) are one atomic write. Batches
that cannot be read have no hashes: they are kept as ranges, and every lookup returns them.

Threads: `_advance_lock` (for hashing the tail), `_merge_lock` (for merging) and `_view_lock` (for
the view of lookups; held for microseconds by lookups, for one small write when runs change), taken
in this order. `truncate` and `trim` come from the engine, which holds its own lock before.
"""

import contextlib
import heapq
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np

from logstore.engine.batch import StoredBatch
from logstore.engine.key_hash import Hashes, hash_keys
from logstore.engine.rocks import index_runs
from logstore.engine.rocks.layout import (
    RUNS,
    UNREADABLE,
    IndexRun,
    decode_runs,
    encode,
    index_key,
    index_key_of,
    meta_key,
    pack_spans,
    unpack_spans,
)
from logstore.engine.rocks.store import INDEX, META, Batch, Store
from logstore.engine.rules import keys_of

_STEP_RECORDS = 16_384
"""Records hashed under the lock at a time: the longest wait of a lookup (< 1 ms)."""

Reader = Callable[[int, int], Iterable[StoredBatch]]
"""Batches that overlap a range of offsets."""


class KeyIndex:
    def __init__(self, store: Store, replica_id: int, base: int, read: Reader) -> None:
        self._store = store
        self._replica_id = replica_id
        self._base = base
        self._read = read
        self._advance_lock = threading.Lock()
        self._merge_lock = threading.Lock()
        self._view_lock = threading.Lock()
        stored = store.get(META, meta_key(replica_id, RUNS))
        self._runs: tuple[IndexRun, ...] = decode_runs(stored) if stored else ()
        spans = store.get(META, meta_key(replica_id, UNREADABLE))
        self._unreadable: dict[int, int] = unpack_spans(spans) if spans else {}
        self._merging: tuple[tuple[IndexRun, ...], IndexRun, Iterator[int]] | None = None
        self._closed = False
        self._next_run_id = self._delete_orphans() + 1
        self._memory_base = self._runs[-1].end if self._runs else base
        self._memory: Hashes = np.empty(4_096, dtype=np.uint64)
        self._memory_records = 0

    @property
    def end(self) -> int:
        """Every record below is in a run or in memory."""
        return self._memory_base + self._memory_records

    @property
    def memory_records(self) -> int:
        return self._memory_records

    def advance(self, end: int, records_max: int, write_runs: bool = True) -> int:
        """Hash records up to `end`, at most about `records_max` of them; returns how many.

        Lookups do not write runs: a full disk must not fail a read.
        """
        done = 0
        while done < records_max and self.end < end:
            with self._advance_lock:
                if write_runs and self._memory_records >= index_runs.FIRST_TIER_RECORDS:
                    self._write_run()
                first = self.end
                if first >= end or self._closed:
                    break
                stop = min(end, first + min(_STEP_RECORDS, records_max - done))
                batches = list(self._read(first, stop))
                hashes = self._hashes(batches)
                hashes = hashes[first - batches[0].base_offset :]
                self._extend(hashes)
                done += len(hashes)
        return done

    def _hashes(self, batches: list[StoredBatch]) -> Hashes:
        columns = [keys_of(b) for b in batches]
        known = [keys for keys in columns if keys is not None]
        if len(known) == len(columns):
            return hash_keys(known)
        with self._view_lock:
            self._unreadable = self._unreadable | {
                b.base_offset: b.end
                for b, keys in zip(batches, columns, strict=True)
                if keys is None
            }
        return np.concatenate(
            [
                np.zeros(b.count, np.uint64) if keys is None else hash_keys([keys])
                for b, keys in zip(batches, columns, strict=True)
            ]
        )

    def write_run(self) -> None:
        """Move the hashes in memory to the disk, however few."""
        with self._advance_lock:
            if self._memory_records and not self._closed:
                self._write_run()

    def merge_step(self) -> int:
        """One slice of a merge, if runs are to be merged; returns the entries it wrote."""
        with self._merge_lock:
            if self._closed:
                return 0
            if self._merging is None:
                chosen = tuple(index_runs.choose_merge(self._runs))
                if not chosen:
                    return 0
                merged = IndexRun(
                    self._take_run_id(), max(chosen[0].base, self._base), chosen[-1].end
                )
                slices = index_runs.merge(self._store, self._replica_id, chosen, self._base, merged)
                self._merging = (chosen, merged, slices)
            chosen, merged, slices = self._merging
            if set(chosen) <= set(self._runs):
                written = next(slices, None)
                if written is not None:
                    return max(written, 1)
            self._merging = None
            self._finish_merge(chosen, merged)
            return 1

    def offsets(self, key_hash: int, start: int, stop: int) -> Iterator[int]:
        """Offsets in [start, stop) whose key may have this hash, ascending.

        The caller advanced the index to `stop` before.
        """
        with self._view_lock:
            runs = [r for r in self._runs if r.base < stop and r.end > start]
            base, memory = self._memory_base, self._memory[: self._memory_records]
            unreadable = self._unreadable
            cursor = self._store.cursor(
                INDEX,
                index_key(self._replica_id, 0, 0),
                index_key(self._replica_id + 1, 0, 0),
            )
        found = (
            block
            for run in runs
            for block in index_runs.find(cursor, self._replica_id, run, key_hash, start, stop)
        )
        first, after = max(start - base, 0), max(stop - base, 0)
        latest = np.flatnonzero(memory[first:after] == np.uint64(key_hash)) + (base + first)
        offsets = (int(offset) for block in chain(found, (latest,)) for offset in block)
        if not unreadable:
            return offsets
        shown = (max(at, start) for at, end in unreadable.items() if at < stop and end > start)
        return heapq.merge(offsets, sorted(shown))

    def truncate(self, batch: Batch, offset: int) -> Callable[[], None]:
        """Add to `batch` the changes of a truncation at `offset`; call the result once it is
        written.

        The engine holds `paused()` from before this until after that.
        """
        runs = tuple(
            IndexRun(r.run_id, r.base, min(r.end, offset)) for r in self._runs if r.base < offset
        )
        return self._change(batch, runs, self._base, min(offset, self.end))

    def trim(self, batch: Batch, base: int) -> Callable[[], None]:
        """Like `truncate`, for a new base; the next merge of their run deletes entries below it."""
        runs = tuple(r for r in self._runs if r.end > base)
        return self._change(batch, runs, base, max(base, self.end))

    def close(self) -> None:
        """The copy is dropped: stop. Called while `paused`."""
        self._closed = True

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While held, the index neither advances nor merges."""
        with self._advance_lock, self._merge_lock:
            yield

    def _change(
        self, batch: Batch, runs: tuple[IndexRun, ...], base: int, end: int
    ) -> Callable[[], None]:
        kept = {r.run_id for r in runs}
        for run in self._runs:
            if run.run_id not in kept:
                index_runs.delete_run(batch, self._replica_id, run.run_id)
        batch.put(META, meta_key(self._replica_id, RUNS), encode(runs))

        def apply() -> None:
            with self._view_lock:
                self._runs, self._base = runs, base
                self._unreadable = {
                    at: to for at, to in self._unreadable.items() if at < end and to > base
                }
                memory_base = min(max(self._memory_base, base), end)
                skip = memory_base - self._memory_base
                if skip >= 0:
                    self._memory = self._memory[skip : self._memory_records].copy()
                    self._memory_records = end - memory_base
                else:
                    self._memory_records = 0
                self._memory_base = memory_base

        return apply

    def _extend(self, hashes: Hashes) -> None:
        used = self._memory_records
        need = used + len(hashes)
        memory = self._memory
        if need > len(memory):
            memory = np.empty(max(need, 2 * len(memory)), dtype=np.uint64)
            memory[:used] = self._memory[:used]
        memory[used:need] = hashes
        with self._view_lock:
            self._memory, self._memory_records = memory, need

    def _write_run(self) -> None:
        records = min(self._memory_records, index_runs.RUN_RECORDS_MAX)
        base = self._memory_base
        run = IndexRun(self._take_run_id(), base, base + records)
        entries = index_runs.entries_of(self._memory[:records])
        batch = self._store.batch()
        index_runs.put_blocks(batch, self._replica_id, run.run_id, entries)
        with self._view_lock:
            runs = (*self._runs, run)
            batch.put(META, meta_key(self._replica_id, RUNS), encode(runs))
            if self._unreadable:
                spans = pack_spans(self._unreadable)
                batch.put(META, meta_key(self._replica_id, UNREADABLE), spans)
            self._store.write(batch)
            self._runs = runs
            self._memory = self._memory[records : self._memory_records].copy()
            self._memory_records -= records
            self._memory_base = run.end

    def _finish_merge(self, chosen: tuple[IndexRun, ...], merged: IndexRun) -> None:
        """Replace `chosen` by `merged`; drop it if the log was truncated meanwhile."""
        batch = self._store.batch()
        with self._view_lock:
            runs = self._runs
            if set(chosen) <= set(runs):
                runs = tuple(merged if r == chosen[0] else r for r in runs if r not in chosen[1:])
            kept = {r.run_id for r in runs}
            for run in (*chosen, merged):
                if run.run_id not in kept:
                    index_runs.delete_run(batch, self._replica_id, run.run_id)
            batch.put(META, meta_key(self._replica_id, RUNS), encode(runs))
            self._store.write(batch)
            self._runs = runs

    def _take_run_id(self) -> int:
        with self._view_lock:
            self._next_run_id += 1
            return self._next_run_id - 1

    def _delete_orphans(self) -> int:
        """Delete runs that no manifest names (a merge was interrupted); returns the largest id."""
        named = {r.run_id for r in self._runs}
        largest = max(named, default=0)
        lower = index_key(self._replica_id, 0, 0)
        upper = index_key(self._replica_id + 1, 0, 0)
        batch, orphans = self._store.batch(), 0
        cursor = self._store.cursor(INDEX, lower, upper)
        cursor.seek(lower)
        while cursor.valid():
            _, run_id, _ = index_key_of(cursor.key())
            largest = max(largest, run_id)
            if run_id not in named:
                index_runs.delete_run(batch, self._replica_id, run_id)
                orphans += 1
            cursor.seek(index_key(self._replica_id, run_id + 1, 0))
        if orphans:
            self._store.write(batch)
        return largest
