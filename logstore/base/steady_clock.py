"""A wall clock for record timestamps that one glitch of the machine's clock does not move.

The rule: time goes on with the monotonic clock. A difference from the machine's wall clock of at
most STEP_MAX_S is reduced at SLEW_RATE (drift, and NTP's slewing). A larger difference is a jump,
by a person or by a fault, which cannot be distinguished: the wall clock is followed once it has
kept the difference for PERSIST_S. So a wall clock that is 30 days ahead for 6 s moves nothing,
nor does one that jumps back and forth, and a corrected one is followed after a minute. A clock
that was wrong from the start is also corrected, by the same rule.
"""

from collections.abc import Callable

STEP_MAX_S = 1.0
"""A larger difference of the wall clock is a jump."""
SLEW_RATE = 0.05
"""Seconds by which a smaller difference is reduced, each second."""
PERSIST_S = 60.0
"""A wall clock that jumped must keep the difference this long to be followed."""
HOLD_MAX_S = 3600.0
"""A shard's last stamp is kept up to this far ahead of the clock, so that stamps never decrease."""


class SteadyClock:
    """`now_us` follows `wall_us` by the rule above; `elapsed_s` is monotonic.

    Any thread may call it: two calls at once at worst double one step of the slew.
    """

    def __init__(self, wall_us: Callable[[], int], elapsed_s: Callable[[], float]) -> None:
        self._wall_us, self._elapsed_s = wall_us, elapsed_s
        self._ahead_us: float = wall_us() - elapsed_s() * 1e6
        """The returned time less the monotonic clock's."""
        self._read_s = elapsed_s()
        self._jump: tuple[float, float] | None = None
        """Where the wall clock jumped to (as `_ahead_us`), and since when it has kept that
        difference."""

    def now_us(self) -> int:
        """Microseconds since 1970 UTC."""
        now_s, wall_us = self._elapsed_s(), self._wall_us()
        ahead_us = wall_us - now_s * 1e6
        jump, off_us, since_s = (
            self._jump,
            ahead_us - self._ahead_us,
            max(0.0, now_s - self._read_s),
        )
        self._read_s = now_s
        if abs(off_us) <= STEP_MAX_S * 1e6:
            most_us = SLEW_RATE * since_s * 1e6
            self._ahead_us += min(max(off_us, -most_us), most_us)
            self._jump = None
        elif jump is None or abs(ahead_us - jump[0]) > STEP_MAX_S * 1e6:
            self._jump = (ahead_us, now_s)
        elif now_s - jump[1] >= PERSIST_S:
            self._ahead_us, self._jump = ahead_us, None
        return round(now_s * 1e6 + self._ahead_us)

    def wall_us(self) -> int:
        """As `now_us`: this is a `logstore.base.env.Clock`."""
        return self.now_us()

    def monotonic_s(self) -> float:
        return self._elapsed_s()

    def latest_us(self) -> int:
        """The later of `now_us` and the machine's wall clock: a time beyond it is surely ahead."""
        return max(self.now_us(), self._wall_us())


def next_stamp(now_us: int, last_us: int) -> int:
    """The stamp after `last_us` in a shard: never less, unless `last_us` comes from a glitch.

    A stamp more than HOLD_MAX_S ahead of the clock comes from a wrong clock, here
    or at the shard's last primary. To keep it would stamp all records wrongly until the clock gets
    there, perhaps for years; so stamps go on with the clock, and decrease this once.
    """
    return last_us if now_us < last_us <= now_us + HOLD_MAX_S * 1e6 else now_us
