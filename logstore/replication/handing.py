"""A primary that ends its term in order: hand-over (H1-H2) and seal (S1). Pure.

Both stop admission, drain until every in-sync copy holds the same (end, chain), and then write it.
"""

from dataclasses import replace

from logstore.base.types import ShardStatus
from logstore.replication import changes
from logstore.replication.state import MachineState


class Handing(MachineState):
    """The part of the machine that closes the append gate, drains, and hands over or seals."""

    __slots__ = ()

    def _handing_over(self) -> bool:
        return self.pending is not None and self.pending.record.primary != self.me

    def _fulfil_hand_over(self, now_s: float) -> None:
        """H1-H2: close the gate, drain until all hold (end, chain), then CAS the primary."""
        record = self._record()
        if record.hand_over is None:
            if record.seal is None:
                self._stopped_s = None
            return
        if self.pending is not None:
            return
        target = next((m for m in record.in_sync if m.replica_id == record.hand_over), None)
        if target is None or target == self.me:
            self._cas(replace(record, hand_over=None), "hand-over to no other in-sync member")
            return
        if self._stopped_s is None:
            self._stopped_s = now_s
            self._set_admission(False)
        if self._drained():
            self._cas(changes.handed_over(record, target), f"hand over to {target.instance}")
        elif now_s - self._stopped_s > self.timing.hand_over_timeout_s:
            self._cas(replace(record, hand_over=None), "hand-over did not drain in time")

    def _drained(self) -> bool:
        """Every in-sync replica holds exactly (end, chain), and all of it is committed."""
        others = [m.replica_id for m in self._record().in_sync if m != self._record().primary]
        held = all(
            r in self.peers and self.peers[r].known and self.peers[r].match == self.end
            for r in others
        )
        return held and self.assigned == self.end and self.high_watermark == self.end.end

    def _sealing(self) -> bool:
        """S1: from sending the seal's CAS until its outcome was read nothing is admitted."""
        return self.pending is not None and self.pending.record.status is ShardStatus.SEALING

    def _fulfil_seal(self, now_s: float) -> None:
        """S1: close the gate, drain, then CAS `sealing` with (end, chain); open again without
        successors.

        A hand-over that is ordered at the same time goes first: the seal is the next primary's.
        """
        record = self._record()
        if record.status is ShardStatus.SEALING:
            self._sealing_s = now_s if self._sealing_s is None else self._sealing_s
            if self.pending is None and now_s - self._sealing_s > self.timing.seal_timeout_s:
                self._cas(changes.reopened(record), "no successors came, open again")
            return
        self._sealing_s = None
        wanted = record.status is ShardStatus.OPEN and record.seal is not None
        if not wanted or record.hand_over is not None or self.pending is not None:
            return
        if self._stopped_s is None:
            self._stopped_s = now_s
            self._set_admission(False)
        if self._drained():
            self._cas(changes.sealing(record, self.end), "seal")
        elif now_s - self._stopped_s > self.timing.hand_over_timeout_s:
            self._cas(replace(record, seal=None), "the seal did not drain in time")
