"""What one seed's run is like: which kinds of fault it has, how often, and what its clients do.

A uniform mixture of all faults rarely brings the same few together twice. So each seed draws a
style (swarm testing: Groce et al., ISSTA 2012): few kinds and often, some of them, all of them, or
aims (`aims`), which wait for a moment and strike then.
"""

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tests.simulation.aims import AIMS, HotRetries, Needs
from tests.simulation.later_aims import ALL_AIMS, LATER

NODE_FAULTS = (
    "kill", "power loss", "torn write", "pause", "slow disk", "disk full", "clock jump",
    "clock drift", "isolate", "cut off", "partition", "one way out", "one way in",
    "store unreachable",
    "store reply lost", "store request late", "watch broken", "watch compacted", "packet loss",
    "delay", "repeat",
)  # fmt: skip
RARE_FAULTS = frozenset({"power loss", "torn write"})
"""They cannot always happen: no seed has them only."""
FAULT_GAP_S = 0.25
FAULT_S = (0.1, 2.5)
OPEN_MAX = 3
"""Faults that last at one time; with more of them nothing gets done."""
MOVE_GAP_S, SPLIT_MOVE_GAP_S = 0.8, 1.5
STATE_CHANCE = 0.14
AIM_CHANCE = 0.5
SOME_AIM_CHANCE = 0.5
LATER_AIM_CHANCE = 0.15
"""That a seed has one of the later aims as well."""
TIMEOUT_S = 5.0
THINK_S = 0.03
WINDOWS = (4, 16, 64)

Shares = tuple[float, float, float, float, float, float, float]
"""Of each kind of call, in the order of `Mix`."""


@dataclass(frozen=True, slots=True)
class Mix:
    """What clients do: shares of each kind of call, mean seconds between calls, calls at once.

    `copy`: reads of any one copy, as it is. `own`: chance that an appended key is read at once;
    `stale`: chance that a conditional append expects an old version.
    `timeout_s`: when a client gives a call up. `restart_s`: mean seconds between two sudden ends of
    a client's process (0: never). `resenders`: clients that send one request many times. `window`:
    appends of a producer that may be under way, and that a copy remembers. `shared`: chance that an
    append goes to a key of the conditional ones; `tails`: that each client tails the log.
    """

    append: float = 0.45
    append_many: float = 0.20
    conditional: float = 0.14
    read: float = 0.12
    latest: float = 0.08
    whole: float = 0.01
    copy: float = 0.0
    own: float = 0.0
    stale: float = 0.0
    think_s: float = THINK_S
    in_flight: int = 8
    timeout_s: float = TIMEOUT_S
    restart_s: float = 0.0
    resenders: int = 0
    window: int = WINDOWS[-1]
    shared: float = 0.0
    tails: float = 0.0

    @property
    def weights(self) -> Shares:
        """In the order of the fields, up to `copy`."""
        return (
            self.append, self.append_many, self.conditional, self.read, self.latest, self.whole,
            self.copy,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Style:
    """Faults are drawn from `faults`, one each `gap_s` on average, and last `lasts_s` at most."""

    name: str
    faults: tuple[str, ...] = NODE_FAULTS
    gap_s: float = FAULT_GAP_S
    lasts_s: float = FAULT_S[1]
    open_max: int = OPEN_MAX
    move_gap_s: float = MOVE_GAP_S
    state_chance: float = STATE_CHANCE
    """Probability that a process dies when a move enters a state; of a reshape it is higher by
    1.8."""
    mix: Mix = Mix()
    aims: tuple[str, ...] = ()
    aim_chance: float = AIM_CHANCE

    @property
    def splits(self) -> bool:
        """Whether its aims need splits and merges."""
        return any(ALL_AIMS[aim].splits for aim in self.aims)

    @property
    def needs(self) -> Needs:
        """Of the cluster: what the last of its aims asks for that asks for anything."""
        asked = [ALL_AIMS[aim].needs for aim in self.aims if ALL_AIMS[aim].needs != Needs()]
        return asked[-1] if asked else Needs()


def draw(faults: Random, clients: Random, later: Random, aim: str | None = None) -> Style:
    """A seed's style, from the dice of its faults, of its clients and of the later aims; `aim`: it
    has this, too."""
    name = faults.choices(tuple(STYLES), tuple(STYLES.values()))[0]
    kinds: tuple[str, ...] = NODE_FAULTS
    aims: tuple[str, ...] = ()
    gap_s, lasts_s, move_gap_s, state_chance = FAULT_GAP_S, FAULT_S[1], MOVE_GAP_S, STATE_CHANCE
    match name:
        case "few":
            kinds = _some(faults, faults.choice((1, 2, 2)))
            gap_s = faults.choice((0.1, 0.2, 0.4))
        case "some":
            kinds = _some(faults, faults.randint(3, len(NODE_FAULTS) // 2))
            gap_s = faults.choice((0.15, 0.25, 0.5))
        case "aimed":
            kinds = _some(faults, faults.choice((1, 2, 4)))
            gap_s = faults.choice((0.3, 0.6, 1.2))
            aims = tuple(faults.sample(tuple(AIMS), faults.choice((1, 2, 3))))
    if name != "uniform":
        lasts_s = faults.choice((0.5, FAULT_S[1], FAULT_S[1]))
        move_gap_s = faults.choice((0.5, MOVE_GAP_S, 2.0))
        state_chance = faults.choice((0.0, STATE_CHANCE, STATE_CHANCE, 0.5))
        if not aims and faults.random() < SOME_AIM_CHANCE:
            aims = (faults.choice(tuple(AIMS)),)
    if later.random() < LATER_AIM_CHANCE and aim is None:
        aims = (*aims, later.choice(tuple(LATER)))
    if aim is not None and aim not in aims:
        aims = (aim, *aims)
    mix = _mix(clients, name)
    if any(ALL_AIMS[a].splits for a in aims):
        move_gap_s = max(move_gap_s, SPLIT_MOVE_GAP_S)  # a shard in a move is not split
    if HotRetries.name in aims and not mix.resenders:
        mix = replace(mix, resenders=1)
    for one in aims:
        asked: dict[str, Any] = dict(ALL_AIMS[one].clients)
        mix = replace(mix, **asked)
    chance = faults.choice((0.2, AIM_CHANCE, 0.9))
    return Style(name, kinds, gap_s, lasts_s, OPEN_MAX, move_gap_s, state_chance, mix, aims, chance)


def _some(rng: Random, count: int) -> tuple[str, ...]:
    """So many kinds, of which one can always happen."""
    kinds = rng.sample(NODE_FAULTS, count)
    if RARE_FAULTS.issuperset(kinds):
        kinds.append(rng.choice([k for k in NODE_FAULTS if k not in RARE_FAULTS]))
    return tuple(kinds)


def _mix(rng: Random, style: str) -> Mix:
    """What the clients of a seed do."""
    if style == "uniform":
        return Mix()
    shares = MIXES[rng.choice(tuple(MIXES))]
    return Mix(
        *shares,
        own=rng.choice((0.0, 0.0, 0.5)),
        stale=rng.choice((0.0, 0.1, 0.4)),
        think_s=rng.choice((0.015, THINK_S, THINK_S)),
        in_flight=rng.choice((3, 8, 8, 16)),
        timeout_s=rng.choice((0.6, 1.5, TIMEOUT_S, TIMEOUT_S)),
        restart_s=rng.choice((0.0, 0.0, 1.0, 3.0)),
        resenders=rng.choice((0, 0, 1, 2)),
        window=rng.choice(WINDOWS),
    )


STYLES = {"uniform": 2, "few": 3, "some": 2, "all": 1, "aimed": 6}
"""Style -> weight."""
MIXES: dict[str, Shares] = {
    "as ever": Mix().weights,
    "single appends": (0.80, 0.0, 0.0, 0.08, 0.08, 0.0, 0.04),
    "many at once": (0.10, 0.65, 0.05, 0.08, 0.06, 0.02, 0.04),
    "conditional": (0.15, 0.05, 0.60, 0.10, 0.10, 0.0, 0.0),
    "readers": (0.30, 0.15, 0.05, 0.10, 0.18, 0.02, 0.20),
}
