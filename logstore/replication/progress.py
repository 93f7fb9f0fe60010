"""What the primary knows of one peer."""

from dataclasses import dataclass, field
from enum import StrEnum

from logstore.base.types import START, Position


class Mode(StrEnum):
    PROBE = "probe"
    """Where the peer is, is unknown: nothing counts."""
    REPLICATE = "replicate"
    """Batches flow; `match` is what the peer acked in this term. Invariant: it equals our log."""


@dataclass(slots=True)
class Progress:
    """Progress of one peer in the primary's term."""

    heard_s: float
    mode: Mode = Mode.PROBE
    match: Position = field(default=START)
    diverged: bool = False
    lease_from_s: float = float("-inf")
    """When the newest message was sent that the peer has answered (P7)."""
    incarnation: int | None = None

    def lost(self) -> None:
        """Back to probing; what was acked in this term stays acked (P1)."""
        self.mode = Mode.PROBE

    def matched(self, end: Position, now_s: float, sent_s: float, incarnation: int | None) -> None:
        """Of another incarnation than before only what it holds now counts (P6)."""
        if incarnation != self.incarnation:
            self.match, self.incarnation = START, incarnation
        self.mode = Mode.REPLICATE
        self.acked(end, now_s, sent_s)

    def acked(self, end: Position, now_s: float, sent_s: float) -> None:
        self.match = max(self.match, end)
        self.heard_s = now_s
        self.lease_from_s = max(self.lease_from_s, sent_s)
