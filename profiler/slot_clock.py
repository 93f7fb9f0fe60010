"""Which slot a log's own time has reached, by the batches or reports about it. Pure.

No maximum of outside input is a clock: one record stamped in nanoseconds would close all
slots up to its own, for good. The wall clock is no bound either, for history is replayed
thousands of times as fast as it happened. The bound is agreement between batches:

1. Time goes on to the next slot with any record of it: a record that is one slot ahead does no
   harm.
2. Several slots are passed at once only where one batch runs through them without a break, as a
   feed of history does: from slot to slot, no gap longer than the batch has slots (and at most
   GAP_SLOTS_MAX, or GAP_SHARE_MAX of them), and with more than one record still to come (in one of
   fewer slots than GAP_SLOTS_MAX, with SHARE_MIN of its records). A batch whose records are all at
   one time an hour ahead is no run, and neither is a batch of now with some of such records in it.
3. Any other jump ahead needs AGREE_MIN batches, with none from near the present in
   between, over AGREE_S. A jump back (all batches are long past) needs BACK_MIN batches over
   BACK_S, since late records are common. Against a single first batch two votes are enough: the
   first may have been the wrong one. Time then jumps to the median of the votes.

So a glitch of any size, also of many records, moves nothing as long as right records come between;
if none come for seconds, the new time is the log's time; and the same rules leave a wrong time
again, after a few records.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median_low

import numpy as np

GAP_SLOTS_MAX = 24
GAP_SHARE_MAX = 0.2
SHARE_MIN = 1 / 512
AGREE_MIN, AGREE_S = 3, 2.0
BACK_MIN, BACK_S = 8, 10.0
VOTES_MAX = 64


@dataclass(slots=True)
class _Votes:
    """Batches in a row that are all on one side of the present, far away."""

    ahead: bool
    since_s: float
    count: int = 0
    slots: list[int] = field(default_factory=list)


class SlotClock:
    """`slot` is the newest slot that has begun; None before the first batch.

    `reach`: how many slots a single record takes it ahead (rule 1): one where batches hold single
    records, more where each batch is itself agreed upon.
    """

    __slots__ = ("_near", "_reach", "_votes", "slot")

    def __init__(self, reach: int = 1, start: int | None = None) -> None:
        """`start`: the known slot of the log's time, if any."""
        self._reach = reach
        self.slot = start
        self._near = 0 if start is None else AGREE_MIN
        """Number of batches that speak for the present, as far as they matter."""
        self._votes: _Votes | None = None

    def tell(self, slots: Sequence[int], counts: Sequence[int], now_s: float) -> bool:
        """One batch or report: `counts[i]` records of `slots[i]`, ascending. `now_s` is monotonic.

        True when time jumped back: what was closed beyond `slot` was closed too early.
        """
        if self.slot is None:
            self._begin(slots, counts)
            return False
        if slots[-1] == self.slot:
            self._told_near()
            return False
        present = self.slot
        self.slot = self._run(present, slots, counts)
        if self.slot > present or any(
            present - GAP_SLOTS_MAX <= slot <= present for slot in (slots[0], slots[-1])
        ):
            self._told_near()
            return False
        middle = _middle(slots, counts)
        if present - GAP_SLOTS_MAX <= middle <= present:
            self._told_near()
            return False
        return self._vote(middle, now_s)

    def _begin(self, slots: Sequence[int], counts: Sequence[int]) -> None:
        self.slot = self._run(_middle(slots, counts), slots, counts)
        self._near = 1

    def _told_near(self) -> None:
        self._near = min(self._near + 1, BACK_MIN)
        self._votes = None

    def _run(self, present: int, slots: Sequence[int], counts: Sequence[int]) -> int:
        """How far rules 1 and 2 take `present`."""
        if slots[-1] <= present:
            return present
        if len(slots) == 1:
            return slots[0] if slots[0] - present <= self._reach else present
        at, mass = np.asarray(slots, dtype=np.int64), np.asarray(counts, dtype=np.float64)
        beyond = np.cumsum(mass[::-1])[::-1]
        ahead = at > present
        way, left = at[ahead], beyond[ahead]
        gaps = np.diff(way, prepend=present)
        short = gaps <= self._reach
        gap_max = min(len(slots), max(GAP_SLOTS_MAX, round(GAP_SHARE_MAX * len(slots))))
        feed = (gaps <= gap_max) & (left >= 2)
        share = SHARE_MIN if len(slots) <= GAP_SLOTS_MAX else 0.0
        passed = (short | feed) & (left >= share * beyond[0])
        stop = len(way) if passed.all() else int(np.argmin(passed))
        return int(way[stop - 1]) if stop else present

    def _vote(self, slot: int, now_s: float) -> bool:
        assert self.slot is not None
        ahead, votes = slot > self.slot, self._votes
        if votes is None or votes.ahead is not ahead:
            votes = self._votes = _Votes(ahead, now_s)
        votes.count += 1
        if len(votes.slots) < VOTES_MAX:
            votes.slots.append(slot)
        else:
            votes.slots[votes.count % VOTES_MAX] = slot
        least, for_s = (AGREE_MIN, AGREE_S) if ahead else (BACK_MIN, BACK_S)
        agreed = votes.count >= least and now_s - votes.since_s >= for_s
        if not agreed and not (self._near == 1 and votes.count >= 2):
            return False
        before, self.slot = self.slot, median_low(votes.slots)
        self._near, self._votes = min(votes.count, BACK_MIN), None
        return self.slot < before


def _middle(slots: Sequence[int], counts: Sequence[int]) -> int:
    """The slot of the middle record."""
    if len(slots) == 1:
        return slots[0]
    sums = np.cumsum(counts)
    return int(slots[int(np.searchsorted(sums, (sums[-1] + 1) // 2))])
