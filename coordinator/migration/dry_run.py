"""A dry run of a move: steps, bytes, seconds, blackout, risks."""

from dataclasses import dataclass

from coordinator.migration.records import MoveOptions, State
from coordinator.migration.table import PATHS, TABLE

_HASH_BYTES_PER_S = 500e6
"""Hashing is bound by the memory and the disk's cache."""


@dataclass(frozen=True, slots=True)
class DryStep:
    """One step of a dry run; estimates in bytes and seconds."""

    state: str
    writes: str
    waits: str
    actor: str
    bytes: int
    seconds: float
    risk: str = ""


_WRITES = {
    ("switch", State.PREPARING): "hand_over = target",
    ("log-shipping", State.SHADOWING): "hand_over = target",
    ("copy-on-write", State.PREPARING): "seal",
    ("copy-on-write", State.CUTOVER): "sealed; a successor at the target; learners += target",
    ("copy-on-write", State.VERIFYING): "hash; admit = target",
    ("copy-on-write", State.SOAKING): "hand_over = target; remove = source",
}
_WAITS = {
    ("switch", State.PREPARING): "the target to be in sync",
    ("copy-on-write", State.PREPARING): "the target to answer",
    ("copy-on-write", State.CUTOVER): "the source to seal",
    ("switch", State.SOAKING): "soak_s with the source in sync",
}
_RISKS = {
    State.SNAPSHOT: "the copy loads source and target; it gives way to live traffic",
    State.CATCHING_UP: "writes faster than the feed: it never catches up and rolls back",
    State.VERIFYING: "unequal chains roll the move back",
    State.SHADOWING: "each append waits for the target, too",
    State.RAMPING: "a breach of a guard rail steps back, the second rolls back",
    State.CUTOVER: "appends are held while the source drains; they are forwarded, none fails",
    State.SOAKING: "rollback is another cutover of the same length",
}


def _scheduled(options: MoveOptions) -> dict[State, float]:
    return {
        State.SHADOWING: options.shadow_s,
        State.RAMPING: -(-1.0 // options.ramp_step) * options.ramp_interval_s,
    }


def scheduled_s(options: MoveOptions, strategy: str) -> float:
    """Seconds up to the end of the cutover that the options prescribe."""
    return sum(s for state, s in _scheduled(options).items() if state in PATHS[strategy])


def dry_run(
    options: MoveOptions, size_bytes: int, copy_mb_per_s: float, strategy: str = "shadow"
) -> list[DryStep]:
    """The steps of a move. `copy_mb_per_s`: the known copy rate of moves, 10^6 bytes/s."""
    rate = copy_mb_per_s * 1e6
    if options.throttle_bytes_per_s:
        rate = min(rate, options.throttle_bytes_per_s)
    seconds = {
        State.SNAPSHOT: size_bytes / rate,
        State.VERIFYING: size_bytes / _HASH_BYTES_PER_S,
        **_scheduled(options),
        State.SOAKING: options.soak_s,
    }
    return [
        DryStep(
            state.value,
            _WRITES.get((strategy, state), TABLE[state].writes),
            _WAITS.get((strategy, state), TABLE[state].waits),
            TABLE[state].actor,
            size_bytes if state is State.SNAPSHOT else 0,
            round(seconds.get(state, 0.0), 3),
            _RISKS.get(state, ""),
        )
        for state in PATHS[strategy]
    ]
