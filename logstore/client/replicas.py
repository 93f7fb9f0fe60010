"""What a client learns of the replicas that it reads from: how fast each answers, which is silent.

Pure: the time of the loop is an argument.
"""

import math
from collections import deque
from typing import Literal

from logstore.base.backoff import Backoff
from logstore.client.router import Dice, read_instance
from sharder.shard_map import Shard

HEDGE_SHARE_MAX = 0.05
"""Hedges a read that are earned for use after the p99: so much more load at most."""

HEDGES_SAVED_MAX = 10.0
"""Earned hedges that are kept for later."""

DELAY_S_MIN = 0.005
"""No read is hedged sooner."""

SILENT_S = 0.4
"""A replica from which no message of any call came for so long, while a read waits for one, is
silent: that read is hedged also without an earned hedge."""

AVOID_S_FIRST, AVOID_S_MAX = 1.0, 30.0
"""How long a replica that was silent while another one answered is not asked; it doubles."""

TIMES_KEPT, TIMES_MIN = 200, 20
"""First answers that a p99 is of; with fewer a read is hedged for silence only."""

Kind = Literal["key", "scan"]


class AnswerTimes:
    """The p99 of the newest first answers, in seconds."""

    __slots__ = ("_new", "_times", "p99_s")

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=TIMES_KEPT)
        self._new = 0
        self.p99_s: float | None = None
        """None: too few answers."""

    def add(self, took_s: float) -> None:
        self._times.append(took_s)
        self._new += 1
        if self._new >= TIMES_MIN:
            self._new = 0
            ordered = sorted(self._times)
            self.p99_s = ordered[-1 - len(ordered) // 100]


class _Silent:
    __slots__ = ("backoff", "trial_s", "until_s")

    def __init__(self) -> None:
        self.backoff = Backoff(AVOID_S_FIRST, AVOID_S_MAX)
        self.until_s = 0.0
        self.trial_s = math.inf
        """When the read that tries it again began."""


class Replicas:
    """Which replica a read asks, when another one is asked too, and what came of it (P8)."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._heard_s: dict[str, float] = {}
        self._times: dict[tuple[str, Kind], AnswerTimes] = {}
        self._silent: dict[str, _Silent] = {}
        self._earned = 1.0

    def choose(self, shard: Shard, now_s: float, *, primary: bool) -> str:
        """The replica for a new read. One that was silent gets one read when its time is over."""
        wanted = read_instance(shard, self._dice, primary=primary)
        self._earned = min(self._earned + HEDGE_SHARE_MAX, HEDGES_SAVED_MAX)
        silent = self._silent.get(wanted)
        if silent is None or primary:
            return wanted
        if now_s >= silent.until_s:
            silent.trial_s, silent.until_s = now_s, now_s + SILENT_S
            return wanted
        others = self.others(shard, wanted, now_s)
        return others[0] if others and not self._avoided(others[0], now_s) else wanted

    def others(self, shard: Shard, asked: str, now_s: float) -> list[str]:
        """Who else may answer the read, best first. The target of a move counts once it has a
        share of the reads."""
        spread = shard.spread_reads and not shard.route
        named = {*shard.in_sync} if spread else {shard.primary, *shard.route}
        found = sorted(i for i in named if i != asked and i in shard.addresses)
        drawn = [(self._avoided(i, now_s), self._dice.random(), i) for i in found]
        return [instance for _, _, instance in sorted(drawn)]

    def delay_s(self, instance: str, kind: Kind) -> float:
        """How long the first answer of a read may take before the read is hedged."""
        times = self._times.get((instance, kind))
        p99_s = times.p99_s if times is not None else None
        return SILENT_S if p99_s is None else min(max(p99_s, DELAY_S_MIN), SILENT_S)

    def may_hedge(self) -> bool:
        """Spend an earned hedge."""
        if self._earned < 1.0:
            return False
        self._earned -= 1.0
        return True

    def is_silent(self, instance: str, since_s: float) -> bool:
        """Whether nothing came from it since then, on any call."""
        return self._heard_s.get(instance, since_s) <= since_s

    def heard(self, instance: str, now_s: float) -> None:
        """A message came: it is not silent."""
        self._heard_s[instance] = now_s
        if self._silent:
            self._silent.pop(instance, None)

    def answered(self, instance: str, kind: Kind, took_s: float) -> None:
        """The first message of a read took so long."""
        times = self._times.get((instance, kind))
        if times is None:
            times = self._times[instance, kind] = AnswerTimes()
        times.add(took_s)

    def overtaken(self, instance: str, asked_s: float, now_s: float) -> None:
        """Another replica answered what this one was asked at `asked_s`."""
        if not self.is_silent(instance, asked_s):
            return
        silent = self._silent.get(instance)
        if silent is None and now_s - asked_s >= SILENT_S:
            silent = self._silent[instance] = _Silent()
        elif silent is None or asked_s < silent.trial_s:
            return  # too soon to say; or it says what another read said before
        silent.trial_s, silent.until_s = math.inf, now_s + silent.backoff.next_s()

    def _avoided(self, instance: str, now_s: float) -> bool:
        silent = self._silent.get(instance)
        return silent is not None and now_s < silent.until_s
