"""The fine clock at the coordinator: each copy's running totals of the last minute. Pure.

The load of a copy is the difference of two reports. A copy that reports nothing more did nothing
more, as long as its instance is heard; so load goes with the time of its instance's last report.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from coordinator.statistics.state import log_of
from profiler.running import SHARDS_MAX, ShardLoad, ShardTotals, Span, is_older, load_between

MINUTE_S = 60.0
"""What is shown as the present load."""
NOW_S = 10.0
"""What the planner takes for the present load: a rise shows in it within seconds."""
STEP_S = 5.0
"""Totals are kept this far apart, so a minute of a copy is a dozen of them."""


@dataclass(frozen=True, slots=True)
class _Point:
    """A copy's totals at `at_s`; they grew after `from_s`, when its instance was heard before."""

    from_s: float
    at_s: float
    totals: ShardTotals


@dataclass(slots=True)
class _Reported:
    points: deque[_Point] = field(default_factory=deque)
    slot: int | None = None
    """The open slot that `keys` are of."""
    keys: tuple[tuple[bytes, float], ...] = ()
    left_s: float | None = None
    """When the instance ceased to serve it."""

    def is_over(self, now_s: float) -> bool:
        return self.left_s is not None and now_s - self.left_s > MINUTE_S


@dataclass(slots=True)
class _Reporting:
    incarnation: int
    heard_s: float
    copies: dict[str, _Reported] = field(default_factory=dict)


class PresentLoads:
    """By instance and shard. One event loop owns it; `now_s` is monotonic."""

    def __init__(self, shards_max: int = SHARDS_MAX) -> None:
        self._shards_max = shards_max
        self._instances: dict[str, _Reporting] = {}
        self._where: dict[str, set[str]] = {}
        """Shard -> instances that reported a copy of it."""

    def take(
        self, instance: str, incarnation: int, totals: Sequence[ShardTotals], now_s: float
    ) -> None:
        """One report, with the totals that changed since the one before."""
        of = self._instances.get(instance)
        if of is None or of.incarnation != incarnation:
            self._drop(instance)
            of = self._instances[instance] = _Reporting(incarnation, now_s)
        before_s, of.heard_s = of.heard_s, now_s
        for shard in [s for s, c in of.copies.items() if c.is_over(now_s)]:
            del of.copies[shard]
            self._leave(shard, instance)
        for told in totals:
            self._take_one(instance, of, told, before_s, now_s)

    def _take_one(
        self, instance: str, of: _Reporting, told: ShardTotals, before_s: float, now_s: float
    ) -> None:
        copy = of.copies.get(told.shard)
        if told.left:
            if copy is not None:
                copy.left_s, copy.slot = now_s, None
            return
        if copy is None or copy.left_s is not None or not is_older(copy.points[-1].totals, told):
            if (
                copy is None
                and len(self._where) >= self._shards_max
                and told.shard not in self._where
            ):
                return
            copy = of.copies[told.shard] = _Reported()
            self._where.setdefault(told.shard, set()).add(instance)
        if told.slot is not None and (told.sampled_keys or copy.slot != told.slot):
            copy.slot, copy.keys = told.slot, told.sampled_keys
        points = copy.points
        from_s = max(before_s, now_s - told.age_s)
        if len(points) >= 2 and points[-1].at_s - points[-2].at_s < STEP_S:
            from_s = points.pop().from_s
        points.append(_Point(from_s, now_s, told))
        while len(points) > 2 and points[1].at_s <= now_s - MINUTE_S:
            points.popleft()

    def _drop(self, instance: str) -> None:
        found = self._instances.pop(instance, None)
        for shard in found.copies if found is not None else ():
            self._leave(shard, instance)

    def _leave(self, shard: str, instance: str) -> None:
        if (where := self._where.get(shard)) is not None:
            where.discard(instance)
            if not where:
                del self._where[shard]

    def forget_log(self, log: str) -> None:
        for instance, of in self._instances.items():
            for shard in [s for s in of.copies if log_of(s) == log]:
                del of.copies[shard]
                self._leave(shard, instance)

    # ---- questions -----------------------------------------------------------------------------

    def totals(self, shard: str, instance: str) -> ShardTotals | None:
        """What a copy's instance reported of it last."""
        of = self._instances.get(instance)
        copy = of.copies.get(shard) if of is not None else None
        return copy.points[-1].totals if copy is not None else None

    def load(
        self, shard: str, now_s: float, over_s: float = MINUTE_S, alive_s: float = MINUTE_S
    ) -> ShardLoad | None:
        """A shard's load over the last `over_s` seconds, by copy; None: no instance that was heard
        within `alive_s` has reported a copy of it.

        A copy that left its instance is in the sum for as long as it served within that time.
        """
        spans: dict[str, Span] = {}
        gone: list[Span] = []
        for instance in sorted(self._where.get(shard, ())):
            of = self._instances.get(instance)
            copy = of.copies.get(shard) if of is not None else None
            if of is None or copy is None or now_s - of.heard_s > alive_s:
                continue
            before, now, for_s = _span(list(copy.points), of.heard_s, over_s)
            if copy.left_s is None:
                spans[instance] = before, now, for_s
            else:
                gone.append((before, replace(now, stored_bytes=0), for_s))
        if not spans and not gone:
            return None
        copies = {instance: load_between([span]) for instance, span in spans.items()}
        return ShardLoad(load_between([*spans.values(), *gone]), copies)

    def open_keys(
        self, log: str, closed: Mapping[str, int]
    ) -> list[tuple[int, tuple[tuple[bytes, float], ...]]]:
        """The slots of a log that are open, with the keys sampled so far. `closed`: instance -> the
        newest slot that it has reported in full."""
        found = []
        for instance, of in list(self._instances.items()):
            for shard, copy in list(of.copies.items()):
                if copy.slot is None or not copy.keys or log_of(shard) != log:
                    continue
                if copy.slot > closed.get(instance, copy.slot - 1):
                    found.append((copy.slot, copy.keys))
        return found


def _span(points: Sequence[_Point], heard_s: float, over_s: float) -> Span:
    """The totals `over_s` before the instance's last report, those of now, and the seconds
    between; less than `over_s` where the copy was not known for so long."""
    begin_s, newest = heard_s - over_s, points[-1]
    base: _Point | None = None
    following = points[0]
    for point in points:
        if point.at_s > begin_s:
            following = point
            break
        base = following = point
    if base is None:
        first = points[0]
        if first.totals.age_s <= over_s:  # it was new then: its totals are of this time
            since_s = max(begin_s, first.at_s - first.totals.age_s)
            return None, newest.totals, heard_s - since_s
        return first.totals, newest.totals, heard_s - first.at_s
    if following is base:  # it has done nothing since
        return base.totals, newest.totals, over_s
    since_s = max(base.at_s, min(following.from_s, begin_s))
    return base.totals, newest.totals, heard_s - since_s
