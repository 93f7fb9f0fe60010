"""Background work of an engine: one step of indexing, and freeing deleted space."""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence

from logstore.base.errors import CorruptStorageError, StorageError
from logstore.engine.rocks.key_index import KeyIndex
from logstore.engine.rocks.store import DATA, INDEX, Store

INDEX_MEMORY_RECORDS_MAX = 8 * 1024 * 1024
"""Hashes (8 bytes each) that all indexes keep in memory; above it the largest is written."""


def index_step(
    indexes: Sequence[tuple[int, KeyIndex]],
    records_max: int,
    turn: int,
    on_damage: Callable[[KeyIndex, CorruptStorageError], None],
) -> int:
    """Advance the index that is furthest behind its log end, then merge a slice of one index.

    `indexes` are pairs of log end and index. Returns records hashed plus entries merged.
    """
    if not indexes:
        return 0
    end, index = max(indexes, key=lambda pair: pair[0] - pair[1].end)
    try:
        done = index.advance(end, records_max)
    except CorruptStorageError as e:
        on_damage(index, e)
        return 1
    if sum(i.memory_records for _, i in indexes) > INDEX_MEMORY_RECORDS_MAX:
        max((i for _, i in indexes), key=lambda i: i.memory_records).write_run()
    for n in range(len(indexes)):
        index = indexes[(turn + n) % len(indexes)][1]
        try:
            merged = index.merge_step()
        except CorruptStorageError as e:
            on_damage(index, e)
            return 1
        if merged:
            return done + merged
    return done


class Reclaimer:
    """A thread that compacts deleted ranges one after the other; started when first needed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._spans: queue.Queue[tuple[bytes, bytes] | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def reclaim(self, lower: bytes, upper: bytes) -> None:
        """Free the space of a deleted range of keys, soon."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="reclaim", daemon=True)
            self._thread.start()
        self._spans.put((lower, upper))

    def drain(self) -> None:
        """Wait until all requested work is done."""
        self._spans.join()

    def close(self) -> None:
        """Stop, in the middle of a compaction if necessary."""
        if self._thread is not None:
            self._spans.put(None)
            self._store.interrupt()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (span := self._spans.get()) is not None:
            # A full or failing disk: the space returns with a later compaction.
            with contextlib.suppress(StorageError):
                self._store.reclaim(DATA, *span)
                self._store.reclaim(INDEX, *span)
            self._spans.task_done()
