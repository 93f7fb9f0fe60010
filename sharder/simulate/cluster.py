"""The state of a simulated cluster: shards on instances, moves under way, and what they cost.

A shard is a run of sub-ranges of one column. A decision of slot t acts from slot t + 1: a split or
merge of shards is then done; a move adds `copy_share` of the shard's load to both sides for
`move_slots` slots and then the load is at the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from annotated_types import Interval, Unit
from numpy.typing import NDArray

from sharder.risk import Floats
from sharder.settings import complaint
from sharder.simulate.series import PARTS

Uid = tuple[int, int, int]
"""A shard: column, first sub-range, one past the last."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Parameters of a simulated cluster. Bounds are checked at construction."""

    instances: Annotated[int, Interval(ge=1, le=1_000), Unit("instances")]
    """Instances, all alike."""
    capacity: Annotated[float, Interval(ge=1e-9, le=1e15), Unit("operations/slot")]
    """Operations that one instance can do in a slot."""
    slot_s: Annotated[float, Interval(ge=1e-3, le=7 * 86_400.0), Unit("s")]
    """Length of a slot."""
    move_slots: Annotated[int, Interval(ge=0, le=1_000), Unit("slots")] = 2
    """Slots that a move takes."""
    copy_share: Annotated[float, Interval(ge=0.0, le=1.0), Unit("(share)")] = 0.15
    """Share of the shard's load that a move adds to its source and its target while it lasts."""
    operators_max: Annotated[int, Interval(ge=1, le=10_000), Unit("operators")] = 16
    """Moves and splits under way at once."""
    operators_per_instance_max: Annotated[int, Interval(ge=1, le=10_000), Unit("operators")] = 4
    """Operators under way that touch one instance."""
    slo_ms: Annotated[float, Interval(ge=1e-3, le=1e6), Unit("ms")] = 20.0
    """A slot whose p95 of appends is longer breaks the service level."""
    service_ms: Annotated[float, Interval(ge=1e-6, le=1e6), Unit("ms")] = 0.5
    """Time to serve one append on an idle instance, group commit included."""
    queue_s_max: Annotated[float, Interval(ge=0.0, le=1e6), Unit("s")] = 30.0
    """Work that an instance queues before admission refuses more."""
    record_bytes: Annotated[int, Interval(ge=0, le=10**9), Unit("bytes")] = 1_000
    """Size of a record."""
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1), Unit("(seed)")] = 0
    """Seed of the planner, the rules and the weights of sub-ranges."""

    def __post_init__(self) -> None:
        said = complaint(self)
        if said is not None:
            raise ValueError(said)


@dataclass(frozen=True, slots=True)
class MoveShard:
    """Move a shard to instance `target`."""

    shard: Uid
    target: int


@dataclass(frozen=True, slots=True)
class Split:
    """Split a shard at sub-range `at`, which becomes the first of the upper shard."""

    shard: Uid
    at: int


@dataclass(frozen=True, slots=True)
class Merge:
    """Join a shard with its upper neighbour, where both are on one instance."""

    shard: Uid
    upper: Uid


Action = MoveShard | Split | Merge


@dataclass(frozen=True, slots=True)
class MoveDone:
    """A move: under way in slots [start, end), the load is at the target from `end`."""

    shard: Uid
    source: int
    target: int
    start: int
    end: int
    share: float
    bytes: float
    flip: bool


@dataclass(slots=True)
class SimulatedCluster:
    """Arrays along the shards, in the order of `uids`."""

    settings: Settings
    weights: Floats
    """[C, PARTS]"""
    stored: Floats
    """Bytes of each column, [C]."""
    uids: list[Uid]
    home: NDArray[np.int64]
    moves: list[MoveDone] = field(default_factory=list)
    refused: int = 0
    column: NDArray[np.int64] = field(init=False)
    share: Floats = field(init=False)
    """Share of the column's load."""
    target: NDArray[np.int64] = field(init=False)
    """Target of a shard's move; -1: it stays."""
    ends: NDArray[np.int64] = field(init=False)
    moved_at: NDArray[np.int64] = field(init=False)
    """Slot in which the last move ended; -1: never moved."""
    moved_from: NDArray[np.int64] = field(init=False)
    born: NDArray[np.int64] = field(init=False)
    """Slot of the split or merge that created it."""
    version: int = 0
    """Grows with every change of shards or placement, so that policies can cache what they
    derive."""
    _below: Floats = field(init=False)

    def __post_init__(self) -> None:
        zero = np.zeros((len(self.weights), 1))
        self._below = np.concatenate([zero, self.weights.cumsum(axis=1)], axis=1)
        n = len(self.uids)
        self.target = np.full(n, -1)
        self.ends = np.zeros(n, dtype=np.int64)
        self.moved_at, self.moved_from = np.full(n, -1), np.full(n, -1)
        self.born = np.full(n, -1)
        self._derive()

    @classmethod
    def of_columns(
        cls, settings: Settings, weights: Floats, stored: Floats, home: Sequence[int]
    ) -> "SimulatedCluster":
        """One shard per column, on the instances `home`."""
        uids = [(c, 0, PARTS) for c in range(len(weights))]
        return cls(settings, weights, stored, uids, np.array(home, dtype=np.int64))

    def below(self, column: int, part: int) -> float:
        """Share of a column's load in the sub-ranges before `part`."""
        return float(self._below[column, part])

    def row(self, uid: Uid) -> int:
        """Index of a shard in the arrays; -1 if it does not exist any more."""
        try:
            return self.uids.index(uid)
        except ValueError:
            return -1

    @property
    def moving(self) -> NDArray[np.bool_]:
        return self.target >= 0

    def busy(self) -> NDArray[np.int64]:
        """Moves under way that touch each instance."""
        at = np.flatnonzero(self.target >= 0)
        k = self.settings.instances
        both = np.concatenate([self.home[at], self.target[at]])
        return np.bincount(both, minlength=k).astype(np.int64)

    def load(self, per_column: Floats) -> Floats:
        """Operations of each instance in a slot with these operations of the columns, [K]."""
        k = self.settings.instances
        mine = per_column[self.column] * self.share
        total: Floats = np.bincount(self.home, weights=mine, minlength=k).astype(np.float64)
        at = np.flatnonzero(self.target >= 0)
        if at.size:
            copy = mine[at] * self.settings.copy_share
            total += np.bincount(self.home[at], weights=copy, minlength=k)
            total += np.bincount(self.target[at], weights=copy, minlength=k)
        return total

    def advance(self, slot: int) -> None:
        """Finish the moves whose load is at the target from `slot` on."""
        done = np.flatnonzero((self.target >= 0) & (self.ends <= slot))
        for i in done:
            self.moved_from[i] = self.home[i]
            self.home[i] = self.target[i]
            self.moved_at[i] = slot
        if done.size:
            self.target[done] = -1
            self.version += 1

    def act(self, slot: int, actions: Sequence[Action]) -> None:
        """Start what fits the limits from `slot` on; `refused` counts the rest."""
        for action in actions:
            row = self.row(action.shard)
            if row < 0 or self.target[row] >= 0 or not self._take(slot, row, action):
                self.refused += 1

    def _take(self, slot: int, row: int, action: Action) -> bool:
        if isinstance(action, MoveShard):
            return self._move(slot, row, action.target)
        column, first, last = action.shard
        if isinstance(action, Split):
            if not first < action.at < last:
                return False
            parts = [(column, first, action.at), (column, action.at, last)]
            self._replace(slot, [row], parts)
            return True
        other = self.row(action.upper)
        if other < 0 or self.target[other] >= 0 or self.home[other] != self.home[row]:
            return False
        if action.upper[0] != column or action.upper[1] != last:
            return False
        self._replace(slot, [row, other], [(column, first, action.upper[2])])
        return True

    def _move(self, slot: int, row: int, target: int) -> bool:
        s, source = self.settings, int(self.home[row])
        busy = self.busy()
        if target == source or int((self.target >= 0).sum()) >= s.operators_max:
            return False
        if max(busy[source], busy[target]) >= s.operators_per_instance_max:
            return False
        day = round(86_400.0 / s.slot_s)
        back = self.moved_from[row] == target and slot - self.moved_at[row] <= day
        self.target[row], self.ends[row] = target, slot + s.move_slots
        size = self.stored[self.column[row]] * self.share[row]
        self.moves.append(
            MoveDone(
                self.uids[row],
                source,
                target,
                slot,
                slot + s.move_slots,
                float(self.share[row]),
                float(size),
                bool(back),
            )
        )
        if s.move_slots == 0:
            self.advance(slot)
        return True

    def _replace(self, slot: int, rows: list[int], uids: list[Uid]) -> None:
        """Replace `rows` by `uids`, which keep the history of the first of the rows."""
        keep = np.ones(len(self.uids), dtype=np.bool_)
        keep[rows] = False
        kept = np.flatnonzero(keep)
        source = np.concatenate([kept, np.full(len(uids), rows[0])]).astype(np.int64)
        self.uids = [self.uids[i] for i in kept] + uids
        for name in ("home", "target", "ends", "moved_at", "moved_from", "born"):
            setattr(self, name, getattr(self, name)[source].copy())
        self.born[len(kept) :] = slot
        self._derive()

    def _derive(self) -> None:
        self.column = np.array([u[0] for u in self.uids], dtype=np.int64)
        first = np.array([u[1] for u in self.uids], dtype=np.int64)
        last = np.array([u[2] for u in self.uids], dtype=np.int64)
        self.share = self._below[self.column, last] - self._below[self.column, first]
        self.version += 1
