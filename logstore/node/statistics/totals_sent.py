"""Which copies' running totals each coordinator has yet to get. No I/O."""

from collections.abc import Callable, Sequence

from profiler.running import SHARDS_MAX, RunningTotals, ShardTotals

TOTALS_MAX = 2_000
"""Copies in one report; the others of a busier instance wait for the next one, in turn."""
KEYS_GROWTH = 1.1
"""The keys of an open slot are sent again when its operations have grown by this factor."""

Keys = tuple[tuple[bytes, float], ...]


class TotalsSent:
    """Of one instance. `open_slot`: a shard's newest open slot and its operations so far (None:
    there is none); `open_keys`: the sampled keys of it."""

    def __init__(
        self,
        running: RunningTotals,
        open_slot: Callable[[str], tuple[int, int] | None],
        open_keys: Callable[[str, int], Keys],
    ) -> None:
        self._running, self._open_slot, self._open_keys = running, open_slot, open_keys
        self._due: dict[str, dict[str, None]] = {}
        """Coordinator -> copies that changed since it heard of them, the longest waiting
        first."""
        self._keys: dict[str, dict[str, tuple[int, int]]] = {}
        """Coordinator -> shard -> the slot whose keys it has, and that slot's operations then."""

    def take(self, to: str, now_s: float) -> list[ShardTotals]:
        """The next totals for coordinator `to`; `put_back` those that it did not get."""
        due = self._due.setdefault(to, {})
        changed = dict.fromkeys(self._running.touched())
        for waiting in self._due.values():
            waiting.update(changed)
        found = []
        for shard in list(due)[:TOTALS_MAX]:
            del due[shard]
            found.append(self._running.of(shard, now_s, *self._new_keys(to, shard)))
        return found

    def _new_keys(self, to: str, shard: str) -> tuple[int | None, Keys]:
        """The open slot, with its keys if they are news to the coordinator."""
        at = self._open_slot(shard)
        if at is None:
            return None, ()
        slot, operations = at
        sent = self._keys.setdefault(to, {})
        before = sent.get(shard, (slot - 1, 0))
        if before[0] == slot and operations < KEYS_GROWTH * before[1]:
            return slot, ()
        if len(sent) >= SHARDS_MAX:
            sent.clear()
        sent[shard] = at
        return slot, self._open_keys(shard, slot)

    def put_back(self, to: str, totals: Sequence[ShardTotals]) -> None:
        """The coordinator did not get them."""
        for lost in totals:
            self._due[to][lost.shard] = None
            self._keys.get(to, {}).pop(lost.shard, None)
