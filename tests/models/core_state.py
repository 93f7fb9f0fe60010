"""What the model of replication consists of: its rules, its states, and small changes of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from tests.models.search import Step

T = TypeVar("T")

NAMES = "SFT"
OUT = -1
"""In `Config.in_sync`: this replica is not in the set."""

Record = tuple[int, int]
"""Value, epoch that stamped it."""
Log = tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    fence_old_epochs: bool = True
    """P1: a replica refuses messages of an epoch older than the one that it has read."""
    progress_of_term_only: bool = True
    """P1: what a peer acked before `primary_since` counts for nothing."""
    own_vote_when_written: bool = True
    """P2: the primary's own copy counts once its write is done."""
    count_old_until_read: bool = True
    """P2: a member that is to be removed counts until the outcome was read."""
    primary_adds: bool = True
    """P3: the primary, not the coordinator, adds a learner."""
    count_new_from_cas: bool = True
    """P3: a learner counts from before the compare-and-swap that adds it."""
    timeout_is_no_outcome: bool = True
    """P3: it counts until the outcome was read, however long that takes."""
    recommit_before_adding: bool = True
    """P4: a learner joins only with the whole log end at take-over."""
    compare_content: bool = True
    """P5: a follower compares what it has with what is sent, and cuts at the first difference."""
    mark_within_matched: bool = True
    """P5: a follower's high watermark stays within what matched in this term."""
    probe_tells_assigned: bool = True
    """P5: a probe carries the end of what was assigned, not of what the primary has written."""
    read_before_accepting: bool = True
    """P6: a restarted replica reads its configuration before it accepts anything."""
    raise_epoch_at_restart: bool = True
    """P6: a restarted primary raises the epoch before it assigns an offset."""
    suspect_leaves: bool = True
    """P6: a member of another incarnation than the stored one acks and leads nothing, and leaves
    when another member vouches."""
    name_incarnation: bool = True
    """P6: progress, and the compare-and-swap that adds, are of one incarnation of the learner."""
    decide_from_one_read: bool = True
    """G1: the compared revision is the one that the decision was read from."""


class Config(NamedTuple):
    """The shard's key in the metadata; `in_sync` has each replica's incarnation, or OUT."""

    epoch: int
    since: int
    primary: int
    in_sync: tuple[int, ...]


class Peer(NamedTuple):
    """What the primary knows of a peer in its term."""

    match: int = 0
    incarnation: int = 0


NOBODY = (Peer(), Peer(), Peer())
NONE_JOINS = (False, False, False)


class Replica(NamedTuple):
    """`log[:written]` survives a kill, `log[:synced]` a power loss. `config`: as it was last read,
    None since a restart. `matched`: compared with the primary of this term."""

    config: Config | None
    log: Log = ()
    written: int = 0
    synced: int = 0
    mark: int = 0
    incarnation: int = 0
    matched: int = 0
    leads: bool = False
    recommit: int = 0
    peers: tuple[Peer, ...] = NOBODY
    joining: tuple[bool, ...] = NONE_JOINS


class Ack(NamedTuple):
    epoch: int
    peer: int
    incarnation: int
    end: int


class Cas(NamedTuple):
    """On its way to the metadata; its outcome is unknown until it is read."""

    compared: int
    config: Config


class State(NamedTuple):
    """`wire`: (epoch, log) as it was sent; any first part of it may arrive. `committed`: acked."""

    config: Config
    replicas: tuple[Replica, ...]
    wire: frozenset[tuple[int, Log]]
    acks: frozenset[Ack] = frozenset()
    committed: Log = ()
    cas: Cas | None = None
    values: int = 0
    kills: int = 0
    power_losses: int = 0


Steps = Iterator[Step[State]]


def put(values: tuple[T, ...], at: int, value: T) -> tuple[T, ...]:
    return (*values[:at], value, *values[at + 1 :])


def with_replica(state: State, n: int, replica: Replica) -> State:
    return state._replace(replicas=put(state.replicas, n, replica))


def send(state: State, config: Config, log: Log) -> State:
    """The wire holds the longest log of an epoch: a first part of it stands for older messages."""
    epoch = config.epoch
    if any(e == epoch and sent[: len(log)] == log for e, sent in state.wire):
        return state
    kept = {w for w in state.wire if w[0] != epoch or log[: len(w[1])] != w[1]}
    return state._replace(wire=frozenset(kept | {(epoch, log)}))


def leading(r: Replica) -> Replica:
    """A term begins: nothing of a peer is known, the whole log is to be committed again (P4)."""
    return r._replace(leads=True, recommit=len(r.log), peers=NOBODY, joining=NONE_JOINS, matched=0)


def led_by_another(r: Replica, matched: int) -> Replica:
    return r._replace(leads=False, recommit=0, peers=NOBODY, joining=NONE_JOINS, matched=matched)


def restarted(r: Replica, kept: int) -> Replica:
    return Replica(None, r.log[:kept], kept, min(r.synced, kept), 0, r.incarnation)


def story(config: Config) -> str:
    members = "".join(NAMES[m] for m, stored in enumerate(config.in_sync) if stored != OUT)
    return f"epoch {config.epoch}, {NAMES[config.primary]} leads {members}"
