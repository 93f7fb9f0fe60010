"""The transition table of a move as data, with a description of each step (design note 0001)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from coordinator.migration.records import (
    END_STATES,
    NOTES_MAX,
    MigrationRecord,
    Phase,
    State,
)
from logstore.base.errors import IllegalTransitionError, InvalidArgumentError
from logstore.base.types import ShardStatus
from logstore.meta.records import ShardRecord

AUTO = "auto"
COPY_ON_WRITE = "copy-on-write"
STRATEGIES = ("switch", "shadow", "log-shipping", COPY_ON_WRITE)


@dataclass(frozen=True, slots=True)
class StateRow:
    """One state: its metadata and disks, and which party acts after all processes died."""

    state: State
    metadata: str
    disk: str
    actor: str
    writes: str
    """What the coordinator writes to leave it."""
    waits: str
    """The condition for it."""
    to: frozenset[State]
    timeout: str | None = None
    """The field of MoveOptions that bounds the state."""


S = State
TABLE: dict[State, StateRow] = {
    row.state: row
    for row in (
        StateRow(S.PLANNED, "-", "-", "coordinator", "shard.migration", "nothing",
            frozenset({S.PREPARING, S.ABORTED})),
        StateRow(S.PREPARING, "-", "-", "coordinator", "a replica id, learners += target",
            "the target to be registered", frozenset({S.SNAPSHOT, S.ROLLING_BACK}),
            "preparing_timeout_s"),
        StateRow(S.SNAPSHOT, "the learner", "target: chunks", "target", "-",
            "the target to be past its snapshot",
            frozenset({S.CATCHING_UP, S.ROLLING_BACK}), "snapshot_timeout_s"),
        StateRow(S.CATCHING_UP, "direct feed", "target: end, chain", "target", "-",
            "the target within lag_records_max of the source's high watermark",
            frozenset({S.VERIFYING, S.SNAPSHOT, S.ROLLING_BACK}), "catching_up_timeout_s"),
        StateRow(S.VERIFYING, "-", "both chains", "coordinator", "hash; admit = target",
            "equal hash chains at the same offset",
            frozenset({S.SHADOWING, S.CATCHING_UP, S.ROLLING_BACK}), "verifying_timeout_s"),
        StateRow(S.SHADOWING, "admission allowed", "-", "source adds the target", "-",
            "the target to be in sync for shadow_s",
            frozenset({S.RAMPING, S.CUTOVER, S.CATCHING_UP, S.SOAKING, S.ROLLING_BACK}),
            "shadowing_timeout_s"),
        StateRow(S.RAMPING, "p; a new leader starts again from 0", "-", "coordinator",
            "route = {target: p} step by step; then hand_over = target", "p = 1 under guard rails",
            frozenset({S.CUTOVER, S.CATCHING_UP, S.SOAKING, S.ROLLING_BACK}), "ramping_timeout_s"),
        StateRow(S.CUTOVER, "intent", "target = source at the end", "source", "route cleared",
            "the source to hand over",
            frozenset({S.SOAKING, S.RAMPING, S.CATCHING_UP, S.ROLLING_BACK}), "cutover_timeout_s"),
        StateRow(S.SOAKING, "end, chain, time left", "both whole", "target",
            "remove = source; then learners -= source", "soak_s with the source in sync",
            frozenset({S.COMPLETED, S.ROLLING_BACK})),
        StateRow(S.ROLLING_BACK, "cause", "-", "target hands back, source removes it",
            "intents withdrawn; hand_over = source; remove = target", "the target to be no member",
            frozenset({S.ROLLED_BACK, S.COMPLETED})),
        StateRow(S.COMPLETED, "confirmation", "target", "-", "-", "-", frozenset()),
        StateRow(S.ROLLED_BACK, "cause", "source", "-", "-", "-", frozenset()),
        StateRow(S.ABORTED, "cause", "source", "-", "-", "-", frozenset()),
    )
}  # fmt: skip


STRATEGY_STEPS: dict[str, dict[State, frozenset[State]]] = {
    # The target is in sync already: nothing is copied; a hand-over that failed is tried again.
    "switch": {S.PREPARING: frozenset({S.CUTOVER}), S.CUTOVER: frozenset({S.PREPARING})},
    # Sealed and opened at the target at once; the sealed history is copied after it.
    COPY_ON_WRITE: {
        S.PREPARING: frozenset({S.CUTOVER}),
        S.CUTOVER: frozenset({S.PREPARING, S.SNAPSHOT}),
        S.VERIFYING: frozenset({S.SOAKING}),
    },
}
"""Steps of a strategy beside the table."""

PATHS: dict[str, tuple[State, ...]] = {
    "switch": (S.PLANNED, S.PREPARING, S.CUTOVER, S.SOAKING),
    "shadow": (S.PLANNED, S.PREPARING, S.SNAPSHOT, S.CATCHING_UP, S.VERIFYING, S.SHADOWING,
               S.RAMPING, S.CUTOVER, S.SOAKING),
    "log-shipping": (S.PLANNED, S.PREPARING, S.SNAPSHOT, S.CATCHING_UP, S.VERIFYING, S.SHADOWING,
                     S.CUTOVER, S.SOAKING),
    COPY_ON_WRITE: (S.PLANNED, S.PREPARING, S.CUTOVER, S.SNAPSHOT, S.CATCHING_UP, S.VERIFYING,
                    S.SOAKING),
}  # fmt: skip
"""The straight way of each strategy, up to its end state."""


def may_go_to(strategy: str, state: State) -> frozenset[State]:
    """The states that `state` may be followed by."""
    return TABLE[state].to | STRATEGY_STEPS.get(strategy, {}).get(state, frozenset())


def story(record: MigrationRecord) -> list[str]:
    """The life of a migration, one line for each phase and remark."""
    start = record.created_us
    lines = [f"{record.id}: {record.shard} from {record.source.instance} to "
             f"{record.target_instance}, {record.trigger}"]  # fmt: skip
    phases = [f"+{(p.at_us - start) / 1e6:.3f} s {p.state.value}" for p in record.phases]
    last = 0 if record.active else 1  # the end stands behind the remarks, which are of before
    lines += [*phases[: len(phases) - last], *record.notes, *phases[len(phases) - last :]]
    if record.cause:
        lines.append(f"cause: {record.cause}")
    return lines


def advance(
    record: MigrationRecord, to: State, now_us: int, *, cause: str | None = None
) -> MigrationRecord:
    """`record` in state `to`; a step that the table lacks raises with the story."""
    if to not in may_go_to(record.strategy, record.state):
        raise IllegalTransitionError(
            f"migration {record.id} cannot go from {record.state.value} to {to.value}; "
            + "; ".join(story(record))
        )
    return replace(
        record,
        state=to,
        since_us=now_us,
        phases=(*record.phases, Phase(to, now_us)),
        cause=cause or record.cause,
        paused=record.paused and to not in END_STATES and to is not State.ROLLING_BACK,
    )


def noted(record: MigrationRecord, text: str) -> MigrationRecord:
    return replace(record, notes=(*record.notes, text)[-NOTES_MAX:])


def check_strategy(strategy: str) -> str:
    """The strategy if this version offers it (empty: `auto`); else an error that says so."""
    strategy = strategy or AUTO
    if strategy not in (AUTO, *STRATEGIES):
        raise InvalidArgumentError(
            f"strategy is {strategy!r}, it must be one of {', '.join((AUTO, *STRATEGIES))}"
        )
    return strategy


_COPIES = ("throttle_bytes_per_s", "feed", "feed_fallback", "feed_deadline_s",
           "snapshot_timeout_s", "catching_up_timeout_s")  # fmt: skip
_SHADOWS = ("shadow_s", "shadowing_timeout_s")
_RAMPS = ("ramp_step", "ramp_interval_s", "ramp_back", "ramping_timeout_s")
UNUSED: dict[str, tuple[str, ...]] = {
    "switch": (*_COPIES, *_SHADOWS, *_RAMPS),
    "log-shipping": _RAMPS,
    COPY_ON_WRITE: (*_SHADOWS, *_RAMPS),
}
"""Strategy -> options of a move that it does not use."""


def check_used(strategy: str, given: Iterable[str]) -> None:
    """InvalidArgumentError for an option, by name, that the requested strategy would not
    use. With `auto` the options are for the strategy that is chosen.
    """
    for name in UNUSED.get(strategy, ()):
        if name in given:
            raise InvalidArgumentError(
                f"{name} and strategy {strategy} exclude each other: a move by {strategy} does not"
                " use it"
            )


def choose_strategy(strategy: str, shard: ShardRecord, target: str) -> str:
    """The strategy of a move of `shard` to instance `target`; `auto` is the one that copies least.

    `InvalidArgumentError` when the target holds no copy to switch to, or one that is in the way.
    """
    strategy = check_strategy(strategy)
    if shard.primary.instance == target:
        raise InvalidArgumentError(f"shard {shard.shard} is already on {target}")
    if shard.status is ShardStatus.SEALING:
        raise InvalidArgumentError(f"shard {shard.shard} is being sealed, move its successors")
    in_sync = any(m.instance == target for m in shard.in_sync)
    if strategy == AUTO:
        strategy = "switch" if in_sync else "shadow"
    if strategy == "switch" and not in_sync:
        held = [m.instance for m in shard.in_sync if m.instance != shard.primary.instance]
        raise InvalidArgumentError(
            f"strategy switch needs a copy in sync on {target}; shard {shard.shard} has followers "
            f"on {', '.join(held) or 'no instance'}"
        )
    if strategy != "switch" and shard.member_on(target) is not None:
        hint = ": use strategy switch" if in_sync else " that is still learning"
        raise InvalidArgumentError(f"shard {shard.shard} has a copy on {target}{hint}")
    if strategy == COPY_ON_WRITE and shard.status is not ShardStatus.OPEN:
        raise InvalidArgumentError(f"shard {shard.shard} is {shard.status.value}: nothing writes")
    if strategy == COPY_ON_WRITE and shard.min_in_sync > 1:
        raise InvalidArgumentError(
            f"strategy copy-on-write starts with one replica, min_in_sync of shard {shard.shard} "
            f"is {shard.min_in_sync}"
        )
    return strategy


def control(record: MigrationRecord, action: str, cause: str, now_us: int) -> MigrationRecord:
    """The record after a person's order: pause, resume, abort, rollback or complete.

    `InvalidArgumentError` for an order that the state cannot take; it says which are possible.
    """
    if not record.active:
        raise InvalidArgumentError(
            f"migration {record.id} has ended ({record.state.value}), {action} is not possible"
        )
    state = record.state.value
    if action in ("pause", "resume"):
        if record.state in (State.CUTOVER, State.ROLLING_BACK):
            raise InvalidArgumentError(f"{action} is not possible in {state}")
        return replace(record, paused=action == "pause", since_us=now_us)
    if action == "complete":
        if record.state is not State.SOAKING:
            raise InvalidArgumentError(f"complete is only possible in soaking, not in {state}")
        return replace(record, request="complete")
    if action not in ("abort", "rollback"):
        raise InvalidArgumentError(
            f"action is {action!r}, it must be pause, resume, abort, rollback or complete"
        )
    if record.removing:
        raise InvalidArgumentError(f"the source of {record.id} is being removed; move it back")
    if action == "abort" and record.state is State.SOAKING:
        raise InvalidArgumentError("abort is not possible in soaking; use rollback or complete")
    if record.state is State.ROLLING_BACK:
        return record
    return replace(record, request="rollback", cause=cause or f"{action} asked for")
