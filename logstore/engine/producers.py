"""A copy's table of producers: a pure function of the log, the same on every replica.

Of each producer the last appends are kept, and of all producers the most recent ones. Twice the
window is kept inside, so that cutting off appends in flight (at most a window per producer) leaves
a whole window; a deeper cut says so and the caller rebuilds from the log.

There is one order in which producers are forgotten: by the offset of their last append, of two
with the same one (an append of no records) the smaller id first. It is applied append by append,
so it depends neither on how appends were grouped nor on where the table was stored meanwhile.
The primary's writer, which is ahead of its disk, and a sealed shard's copy use the same table.
"""

from collections import deque
from collections.abc import Iterable, Mapping

from logstore.base import limits
from logstore.engine.batch import StoredBatch
from logstore.engine.port import ProducerEntry

NO_PRODUCER = 0
"""The producer id of a span for an append without a producer."""


class ProducerTable:
    """Appends by producer. `dirty` names the producers that changed since it was last cleared."""

    def __init__(
        self,
        entries: Mapping[int, Iterable[ProducerEntry]] | None = None,
        forgot: Iterable[int] = (),
    ) -> None:
        self._producers_max = limits.PRODUCERS_PER_SHARD_MAX
        self._kept = 2 * limits.PRODUCER_WINDOW
        self.dirty: set[int] = set()
        self._forgot = set(forgot)
        loaded = {p: deque(e, maxlen=self._kept) for p, e in (entries or {}).items()}
        self._entries: dict[int, deque[ProducerEntry]] = _in_order(loaded)
        """By the offset of the last append: the first are the next to forget."""
        self._evicted = len(self._entries) >= self._producers_max

    def __len__(self) -> int:
        return len(self._entries)

    def clone(self) -> "ProducerTable":
        """An independent copy, `dirty` included."""
        other = ProducerTable(self._entries, self._forgot)
        other.dirty = set(self.dirty)
        other._evicted = self._evicted
        return other

    def add(self, batch: StoredBatch) -> None:
        """Add the spans of the next batch."""
        offset = batch.base_offset
        for span in batch.spans():
            if span.producer_id != NO_PRODUCER:
                self.remember(span.producer_id, ProducerEntry(span.sequence, offset, span.count))
            offset += span.count

    def remember(self, producer: int, entry: ProducerEntry) -> None:
        """Learn the log's next append; the producer whose turn it is may be forgotten for it."""
        entries = self._entries.pop(producer, None)
        if entries is None:
            entries = deque(maxlen=self._kept)
        elif len(entries) == self._kept:
            self._forgot.add(producer)
        entries.append(entry)
        self._entries[producer] = entries
        self.dirty.add(producer)
        if len(self._entries) > self._producers_max:
            self._evict()

    def _evict(self) -> None:
        items = iter(self._entries.items())
        oldest, entries = next(items)
        for producer, others in items:
            if others[-1].offset != entries[-1].offset:
                break
            oldest = min(oldest, producer)
        del self._entries[oldest]
        self._forgot.discard(oldest)
        self.dirty.add(oldest)
        self._evicted = True

    def last(self, producer: int) -> int:
        """Sequence of the producer's last append; 0 when it is unknown."""
        entries = self._entries.get(producer)
        return entries[-1].sequence if entries else 0

    def find(self, producer: int, sequence: int) -> ProducerEntry | None:
        """The append, if it is among the last PRODUCER_WINDOW of its producer."""
        entries = self._entries.get(producer)
        if entries is None or sequence <= entries[-1].sequence - limits.PRODUCER_WINDOW:
            return None
        found = next((e for e in reversed(entries) if e.sequence <= sequence), None)
        return found if found is not None and found.sequence == sequence else None

    def truncate(self, offset: int) -> bool:
        """Forget appends from `offset` (a batch end) on; False: too deep, rebuild the table."""
        for producer, entries in list(self._entries.items()):
            if entries[-1].offset < offset:
                continue
            while entries and entries[-1].offset >= offset:
                if entries[-1].count == 0 and entries[-1].offset == offset:
                    return False  # an empty part may belong to the batch that ends here
                entries.pop()
            short = producer in self._forgot and len(entries) < limits.PRODUCER_WINDOW
            if self._evicted or short:
                return False
            self.dirty.add(producer)
            if not entries:
                del self._entries[producer]
        self._entries = _in_order(self._entries)
        return True

    def kept(self, producer: int) -> tuple[ProducerEntry, ...]:
        """All appends kept of one producer, more than the window; empty when unknown."""
        return tuple(self._entries.get(producer, ()))

    def forgot(self, producer: int) -> bool:
        """Whether the producer had earlier appends than those of `kept`."""
        return producer in self._forgot

    def ids(self) -> list[int]:
        """In the order in which they will be forgotten."""
        return list(_in_order(self._entries))

    def view(self) -> dict[int, tuple[ProducerEntry, ...]]:
        """The last PRODUCER_WINDOW appends of every producer."""
        return {p: tuple(e)[-limits.PRODUCER_WINDOW :] for p, e in self._entries.items()}


def _in_order(entries: Mapping[int, deque[ProducerEntry]]) -> dict[int, deque[ProducerEntry]]:
    aged = sorted((e[-1].offset, producer) for producer, e in entries.items() if e)
    return {producer: entries[producer] for _, producer in aged}
