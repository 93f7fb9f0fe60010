"""What a copy remembers of its producers: a pure function of the log, the same on every replica.

Of each producer the last appends are kept, and of all producers the most recent ones. Twice the
window is kept inside, so that cutting off appends in flight (at most a window per producer) leaves
a whole window; a deeper cut says so and the caller rebuilds from the log.
"""

from collections import deque
from collections.abc import Iterable, Mapping

from logstore.base.limits import PRODUCER_WINDOW, PRODUCERS_PER_SHARD_MAX
from logstore.engine.batch import StoredBatch
from logstore.engine.port import ProducerEntry

NO_PRODUCER = 0
"""The producer id of a span that fills the place of an append without a producer."""

KEPT = 2 * PRODUCER_WINDOW


class ProducerTable:
    """Appends by producer. `dirty` names the producers that changed since it was last cleared."""

    def __init__(
        self,
        entries: Mapping[int, Iterable[ProducerEntry]] | None = None,
        forgot: Iterable[int] = (),
        producers_max: int = PRODUCERS_PER_SHARD_MAX,
    ) -> None:
        self._producers_max = producers_max
        self.dirty: set[int] = set()
        self._forgot = set(forgot)
        loaded = {p: deque(e, maxlen=KEPT) for p, e in (entries or {}).items()}
        # The dict's order is the order of the last append: the first is the next to forget.
        self._entries: dict[int, deque[ProducerEntry]] = dict(
            sorted(((p, e) for p, e in loaded.items() if e), key=lambda item: item[1][-1].offset)
        )

        self._evicted = len(self._entries) >= producers_max

    def clone(self) -> "ProducerTable":
        """An independent copy, `dirty` included."""
        other = ProducerTable(self._entries, self._forgot, self._producers_max)
        other.dirty = set(self.dirty)
        other._evicted = self._evicted
        return other

    def add(self, batch: StoredBatch) -> None:
        """Learn the spans of the next batch."""
        offset = batch.base_offset
        for span in batch.spans():
            if span.producer_id != NO_PRODUCER:
                entries = self._entries.pop(span.producer_id, None)
                if entries is None:
                    entries = deque(maxlen=KEPT)
                if len(entries) == KEPT:
                    self._forgot.add(span.producer_id)
                entries.append(ProducerEntry(span.sequence, offset, span.count))
                self._entries[span.producer_id] = entries
                self.dirty.add(span.producer_id)
            offset += span.count
        while len(self._entries) > self._producers_max:
            oldest = next(iter(self._entries))
            del self._entries[oldest]
            self._forgot.discard(oldest)
            self.dirty.add(oldest)
            self._evicted = True

    def truncate(self, offset: int) -> bool:
        """Forget appends from `offset` (a batch end) on; False: cut too deep, rebuild the table."""
        for producer, entries in list(self._entries.items()):
            if entries[-1].offset < offset:
                continue
            while entries and entries[-1].offset >= offset:
                if entries[-1].count == 0 and entries[-1].offset == offset:
                    return False  # an empty part may belong to the batch that ends here
                entries.pop()
            if self._evicted or (producer in self._forgot and len(entries) < PRODUCER_WINDOW):
                return False
            self.dirty.add(producer)
            if not entries:
                del self._entries[producer]
        self._entries = dict(sorted(self._entries.items(), key=lambda item: item[1][-1].offset))
        return True

    def kept(self, producer: int) -> tuple[ProducerEntry, ...]:
        """All that is kept of one producer, more than the window; empty when unknown."""
        return tuple(self._entries.get(producer, ()))

    def forgot(self, producer: int) -> bool:
        """Whether the producer had earlier appends than those of `kept`."""
        return producer in self._forgot

    def ids(self) -> list[int]:
        return list(self._entries)

    def view(self) -> dict[int, tuple[ProducerEntry, ...]]:
        """The last PRODUCER_WINDOW appends of every producer."""
        return {p: tuple(e)[-PRODUCER_WINDOW:] for p, e in self._entries.items()}
