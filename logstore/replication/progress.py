"""The primary's knowledge of one peer."""

from dataclasses import dataclass, field
from enum import StrEnum

from logstore.base.types import START, Position


class ProgressMode(StrEnum):
    PROBE = "probe"
    """The peer's position is unknown: nothing counts."""
    REPLICATE = "replicate"
    """Batches are sent; `match` is what the peer acked in this term. Invariant: it equals our
    log."""


@dataclass(slots=True)
class Progress:
    """Progress of one peer in the primary's term."""

    heard_s: float
    mode: ProgressMode = ProgressMode.PROBE
    match: Position = field(default=START)
    known: bool = False
    """It matched in this term. Until then it is unknown what it holds above `match`."""
    diverged: bool = False
    """Its committed part differs from ours: it can never match."""
    ahead: int | None = None
    """It diverged, and may hold what was committed before our term up to here, above our end."""
    lease_from_s: float = float("-inf")
    """When the newest message was sent that the peer has answered (P7)."""
    incarnation: int | None = None
    joining_s: float | None = None
    """Since when acks wait for a learner that is about to be admitted; None: they do not."""
    _goal: int | None = None
    _goal_s: float = 0.0

    def lost(self) -> None:
        """Back to probing; what was acked in this term stays acked (P1)."""
        self.mode = ProgressMode.PROBE
        self.leave()

    def leave(self) -> None:
        """Acks do not wait for it; before they do again, it must catch up once more."""
        self.joining_s = self._goal = None

    def follow(self, high_watermark: int, round_s_max: float, now_s: float) -> None:
        """Of a learner that may be admitted: each time it reaches the high watermark of a moment
        ago a round ends; after a quick one acks wait for it, for at most two of them."""
        if self.joining_s is not None:
            if now_s - self.joining_s > 2 * round_s_max:
                self.leave()
        elif self._goal is None:
            self._goal, self._goal_s = high_watermark, now_s
        elif self.match.end >= self._goal:
            if now_s - self._goal_s <= round_s_max:
                self.joining_s = now_s
            self._goal, self._goal_s = high_watermark, now_s

    def matched(self, end: Position, now_s: float, sent_s: float, incarnation: int | None) -> None:
        """Of another incarnation than before, only what it holds now counts (P6)."""
        if incarnation != self.incarnation:
            self.match, self.incarnation = START, incarnation
        self.mode, self.known = ProgressMode.REPLICATE, True
        self.acked(end, now_s, sent_s)

    def acked(self, end: Position, now_s: float, sent_s: float) -> None:
        self.match = max(self.match, end)
        self.heard_s = now_s
        self.lease_from_s = max(self.lease_from_s, sent_s)
