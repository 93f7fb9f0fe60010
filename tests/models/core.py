"""Replication of one shard: primary, in-sync set, learner, configuration by compare-and-swap.

Three replicas; the primary writes its own log while it sends; kill -9 and power loss; messages come
late, twice or never. `os` durability: a power loss takes what was not flushed.
"""

from dataclasses import dataclass, replace

from tests.models.core_state import (
    NAMES,
    NONE_JOINS,
    OUT,
    Ack,
    Cas,
    Config,
    Log,
    Peer,
    Replica,
    Rules,
    State,
    Steps,
    leading,
    led_by_another,
    put,
    restarted,
    send,
    story,
    with_replica,
)
from tests.models.search import Case, Step

__all__ = ["CASES", "LARGE", "Core", "Rules"]


@dataclass(frozen=True, slots=True)
class Core:
    """Bounds: values appended, epochs, kills and power losses in all."""

    rules: Rules
    values: int
    epochs: int
    kills: int = 0
    power_losses: int = 0
    removes: bool = True

    def initial(self) -> State:
        config = Config(1, 1, 0, (0, 0, OUT))
        leader = Replica(config, leads=True)
        replicas = (leader, Replica(config), Replica(config))
        sent: frozenset[tuple[int, Log]] = frozenset()
        return State(config, replicas, sent, kills=self.kills, power_losses=self.power_losses)

    def steps(self, state: State) -> Steps:
        for n in range(3):
            for label, after, violation, _ in self._of_replica(state, n):
                yield Step(f"{NAMES[n]} {label}", self._forget_old(after), violation)
        if (cas := state.cas) is not None:
            landed = cas.config
            if not self.rules.name_incarnation:
                members = tuple(
                    state.replicas[m].incarnation if before == OUT != after else after
                    for m, (before, after) in enumerate(
                        zip(state.config.in_sync, landed.in_sync, strict=True)
                    )
                )
                landed = landed._replace(in_sync=members)
            yield Step(
                f"the compare-and-swap lands: {story(landed)}",
                self._forget_old(state._replace(config=landed, cas=None)),
            )

    def violation(self, state: State) -> str | None:
        committed = state.committed
        for n, r in enumerate(state.replicas):
            if r.mark > len(committed) or r.log[: r.mark] != committed[: r.mark]:
                return f"{NAMES[n]} serves {r.log[: r.mark]}, committed is {committed}"
            if state.config.in_sync[n] != r.incarnation:
                continue
            if r.log[: min(r.written, len(committed))] != committed:
                return f"{NAMES[n]} is in sync and lacks what was acked: {committed}"
        return None

    def _of_replica(self, state: State, n: int) -> Steps:
        r = state.replicas[n]
        if r.config != state.config:
            yield from self._read(state, n)
        if r.config is not None and self._suspect(r, n):
            yield from self._leave(state, n)
        elif r.leads:
            yield from self._append(state, n)
            yield from self._hear(state, n)
            yield from self._commit(state, n)
            if r.config == state.config and r.config.epoch < self.epochs and state.cas is None:
                yield from self._change_members(state, n)
                yield from self._hand_over(state, n)
            yield from self._time_out(state, n)
        else:
            yield from self._receive(state, n)
            yield from self._follow(state, n)
            yield from self._take_over(state, n)
        yield from self._fail(state, n)

    # ---- configuration ---------------------------------------------------------------------------

    def _suspect(self, r: Replica, n: int) -> bool:
        """It may lack what it acked. Alone in the set it would tell a possible loss and lead on:
        what comes after is not modelled, so it stays silent."""
        assert r.config is not None
        return self.rules.suspect_leaves and r.config.in_sync[n] not in (OUT, r.incarnation)

    def _read(self, state: State, n: int) -> Steps:
        """P6, P1: a replica reads the newest configuration; a primary begins its term, or goes on
        in it. A restarted one raises the epoch first."""
        r, config = state.replicas[n], state.config
        reads = r._replace(config=config)
        same_term = r.config is not None and r.config.since == config.since
        if config.primary != n:
            reads = led_by_another(reads, r.matched if same_term else 0)
            yield Step(f"reads {story(config)}", with_replica(state, n, reads))
            return
        if self._suspect(reads, n):
            yield Step(f"reads {story(config)}", with_replica(state, n, led_by_another(reads, 0)))
            return
        if r.config is None and self.rules.raise_epoch_at_restart:
            if config.epoch < self.epochs:
                raised = config._replace(epoch=config.epoch + 1, since=config.epoch + 1)
                reads = leading(r._replace(config=raised))
                after = with_replica(state, n, reads)._replace(config=raised)
                yield Step(f"raises the epoch: {story(raised)}", send(after, raised, r.log))
            return
        if r.leads and (same_term or not self.rules.progress_of_term_only):
            after = self._go_on(state, n, reads, r.config or config)
        else:
            after = with_replica(state, n, leading(reads))
        yield Step(f"reads {story(config)}", send(after, config, r.log))

    def _go_on(self, state: State, n: int, reads: Replica, before: Config) -> State:
        """The same term: progress stays, but of those who left the set (P6)."""
        config, peers, acks = state.config, list(reads.peers), state.acks
        if self.rules.name_incarnation:
            for m, stored in enumerate(config.in_sync):
                if stored == OUT and before.in_sync[m] != OUT:
                    peers[m] = Peer()
                    acks = frozenset(a for a in acks if a.peer != m)
        reads = reads._replace(peers=tuple(peers), joining=NONE_JOINS)
        return with_replica(state, n, reads)._replace(acks=acks)

    def _leave(self, state: State, n: int) -> Steps:
        """P6: a suspect member leaves for one that is whole, which leads if this one did."""
        r, config = state.replicas[n], state.config
        if r.config != config or config.epoch >= self.epochs:
            return
        for v, voucher in enumerate(state.replicas):
            whole = config.in_sync[v] == voucher.incarnation and voucher.config == config
            if v == n or not whole:
                continue
            epoch = config.epoch + 1
            left = config._replace(epoch=epoch, in_sync=put(config.in_sync, n, OUT))
            if config.primary == n:
                left = left._replace(primary=v, since=epoch)
            yield Step(
                f"may lack what it acked, leaves: {story(left)}", state._replace(config=left)
            )

    def _change_members(self, state: State, n: int) -> Steps:
        """P3: the primary adds a learner that caught up, or drops a member."""
        r, config = state.replicas[n], state.config
        for m in range(3):
            stored = config.in_sync[m]
            if stored == OUT and self._may_add(state, r, m):
                inc = r.peers[m].incarnation if self.rules.primary_adds else 0
                wanted = config._replace(
                    epoch=config.epoch + 1, in_sync=put(config.in_sync, m, inc)
                )
                counts = self.rules.primary_adds and self.rules.count_new_from_cas
                joins = r._replace(joining=put(r.joining, m, True)) if counts else r
                after = with_replica(state, n, joins)._replace(cas=Cas(config.epoch, wanted))
                yield Step(f"asks to add {NAMES[m]}, which has {r.peers[m].match}", after)
            if stored != OUT and m != n and self.removes:
                wanted = config._replace(
                    epoch=config.epoch + 1, in_sync=put(config.in_sync, m, OUT)
                )
                after = state._replace(cas=Cas(config.epoch, wanted))
                if not self.rules.count_old_until_read:
                    after = with_replica(
                        after,
                        n,
                        r._replace(config=r.config and r.config._replace(in_sync=wanted.in_sync)),
                    )
                yield Step(f"asks to drop {NAMES[m]}", after)

    def _may_add(self, state: State, r: Replica, m: int) -> bool:
        if not self.rules.primary_adds:
            learner = state.replicas[m]
            return learner.written >= r.mark and learner.config == r.config
        least = max(r.mark, r.recommit) if self.rules.recommit_before_adding else r.mark
        return r.peers[m].match >= least

    def _time_out(self, state: State, n: int) -> Steps:
        r = state.replicas[n]
        if not self.rules.timeout_is_no_outcome and any(r.joining) and state.cas is not None:
            yield Step(
                "hears nothing and counts the learner no more",
                with_replica(state, n, r._replace(joining=NONE_JOINS)),
            )

    def _hand_over(self, state: State, n: int) -> Steps:
        """H1, H2: drained, the primary itself makes an in-sync member primary."""
        r, config = state.replicas[n], state.config
        drained = len(r.log) == r.written == r.mark >= r.recommit
        for m, stored in enumerate(config.in_sync):
            if m != n and stored != OUT and drained and r.peers[m].match == r.mark:
                epoch = config.epoch + 1
                wanted = Config(epoch, epoch, m, config.in_sync)
                after = state._replace(cas=Cas(config.epoch, wanted))
                yield Step(f"asks to hand over to {NAMES[m]}", after)

    def _take_over(self, state: State, n: int) -> Steps:
        """P4: a member of the stored in-sync set leads, without the old primary. The lease is not
        modelled: it may happen at any time."""
        r, epoch = state.replicas[n], state.config.epoch + 1
        read = r.config
        if read is None or read.in_sync[n] == OUT or read.primary == n or epoch > self.epochs:
            return
        if self.rules.decide_from_one_read and read != state.config:
            return
        members = put(put(read.in_sync, read.primary, OUT), n, r.incarnation)
        taken = Config(epoch, epoch, n, members)
        yield Step(f"takes over: {story(taken)}", state._replace(config=taken))

    # ---- appends ---------------------------------------------------------------------------------

    def _append(self, state: State, n: int) -> Steps:
        """The primary sends while it writes (P2)."""
        r = state.replicas[n]
        assert r.config is not None
        if state.values < self.values and not self._hands_over(state, n):
            log = (*r.log, (state.values, r.config.epoch))
            after = with_replica(state, n, r._replace(log=log))._replace(values=state.values + 1)
            yield Step(
                f"assigns offset {len(r.log)} in epoch {r.config.epoch}",
                send(after, r.config, log),
            )
        if r.written < len(r.log):
            yield Step("has written", with_replica(state, n, r._replace(written=len(r.log))))

    def _hear(self, state: State, n: int) -> Steps:
        r = state.replicas[n]
        assert r.config is not None
        first = r.config.since if self.rules.progress_of_term_only else 0
        for ack in state.acks:
            known = r.peers[ack.peer]
            if not first <= ack.epoch <= r.config.epoch or ack.peer == n:
                continue
            if not self.rules.name_incarnation:
                now = Peer(max(known.match, ack.end))
            elif ack.incarnation == known.incarnation:
                now = known._replace(match=max(known.match, ack.end))
            elif ack.incarnation > known.incarnation:
                now = Peer(ack.end, ack.incarnation)
            else:
                continue
            if now != known:
                yield Step(
                    f"hears that {NAMES[ack.peer]} holds {ack.end}",
                    with_replica(state, n, r._replace(peers=put(r.peers, ack.peer, now))),
                )

    def _commit(self, state: State, n: int) -> Steps:
        """P2: what every member of old and new holds is committed, and acked."""
        r = state.replicas[n]
        assert r.config is not None
        if self._hands_over(state, n):
            return
        held = r.written if self.rules.own_vote_when_written else len(r.log)
        for m, stored in enumerate(r.config.in_sync):
            if m != n and (stored != OUT or r.joining[m]):
                held = min(held, r.peers[m].match)
        if held <= r.mark:
            return
        known = state.committed
        twice = next(
            (i for i in range(r.mark, min(held, len(known))) if known[i] != r.log[i]), None
        )
        wrong = None if twice is None else f"offset {twice} is committed twice"
        after = with_replica(state, n, r._replace(mark=held))
        after = after._replace(committed=known + r.log[len(known) : held])
        yield Step(f"commits and acks up to {held}", after, wrong)

    def _hands_over(self, state: State, n: int) -> bool:
        """H2: from sending the hand-over's compare-and-swap it assigns and acks nothing."""
        r, cas = state.replicas[n], state.cas
        return cas is not None and cas.config.primary != n and r.config == state.config

    def _receive(self, state: State, n: int) -> Steps:
        """P5: compare, cut at the first difference, write, then ack."""
        r = state.replicas[n]
        for epoch, sent in state.wire:
            if r.config is None:
                if self.rules.read_before_accepting:
                    continue
            elif epoch != r.config.epoch and (
                self.rules.fence_old_epochs or epoch > r.config.epoch
            ):
                continue
            at = r.matched
            if at >= len(sent):
                continue
            log = r.log
            differs = at >= len(log) or (self.rules.compare_content and log[at] != sent[at])
            if differs:
                log = (*log[:at], sent[at])
            wrong = None
            if log[: r.mark] != r.log[: r.mark]:
                wrong = f"{NAMES[n]} cuts below its high watermark"
            synced = min(r.synced, at) if differs else r.synced
            took = r._replace(log=log, written=len(log), synced=synced, matched=at + 1)
            ack = Ack(epoch, n, r.incarnation, at + 1)
            older = {a for a in state.acks if a[:3] == ack[:3]}
            after = with_replica(state, n, took)._replace(acks=(state.acks - older) | {ack})
            yield Step(f"takes offset {at} of epoch {epoch} and acks", after, wrong)

    def _follow(self, state: State, n: int) -> Steps:
        """A heartbeat carries the high watermark, a probe the primary's end (P5)."""
        r = state.replicas[n]
        for p, leader in enumerate(state.replicas):
            if not leader.leads or r.config is None or leader.config != r.config:
                continue
            bound = r.matched if self.rules.mark_within_matched else len(r.log)
            mark = min(leader.mark, bound)
            if mark > r.mark:
                yield Step(
                    f"hears the high watermark {mark}",
                    with_replica(state, n, r._replace(mark=mark)),
                )
            end = len(leader.log) if self.rules.probe_tells_assigned else leader.written
            longer = len(r.log) > end >= max(r.mark, r.matched)
            if longer and r.log[:end] == leader.log[:end]:
                cut = r._replace(log=r.log[:end], written=end, synced=min(r.synced, end))
                yield Step(
                    f"is probed by {NAMES[p]} and cuts to {end}", with_replica(state, n, cut)
                )

    # ---- faults ----------------------------------------------------------------------------------

    def _fail(self, state: State, n: int) -> Steps:
        r = state.replicas[n]
        if state.power_losses and r.synced < r.written:
            yield Step("flushes", with_replica(state, n, r._replace(synced=r.written)))
        if state.kills:
            dead = restarted(r, r.written)
            yield Step("is killed", with_replica(state, n, dead)._replace(kills=state.kills - 1))
        if state.power_losses:
            dead = restarted(r, r.synced)._replace(incarnation=r.incarnation + 1)
            after = with_replica(state, n, dead)._replace(power_losses=state.power_losses - 1)
            yield Step(f"loses power and keeps {r.synced}", after)

    def _forget_old(self, state: State) -> State:
        """Drop what can have no effect any more, so that fewer states differ."""
        cas = state.cas
        if cas is not None and cas.compared != state.config.epoch:
            cas = None  # it will fail
        replicas = state.replicas
        wire, acks = state.wire, state.acks
        if self.rules.fence_old_epochs and self.rules.read_before_accepting:
            oldest = min((r.config or state.config).epoch for r in replicas)
            if any(epoch < oldest for epoch, _ in wire):
                wire = frozenset(w for w in wire if w[0] >= oldest)
        if self.rules.progress_of_term_only:
            first = min(
                (r.config.since for r in replicas if r.leads and r.config),
                default=state.config.since,
            )
            first = min(first, state.config.since)
            if any(a.epoch < first for a in acks):
                acks = frozenset(a for a in acks if a.epoch >= first)
        if cas is state.cas and wire is state.wire and acks is state.acks:
            return state
        return state._replace(cas=cas, wire=wire, acks=acks)


def _case(
    name: str,
    off: str | None = None,
    violation: str = "",
    states: int = 0,
    *,
    values: int = 1,
    epochs: int = 3,
    kills: int = 0,
    power_losses: int = 0,
    removes: bool = True,
) -> Case:
    rules = replace(Rules(), **{off: False}) if off else Rules()
    return Case(
        name,
        lambda: Core(rules, values, epochs, kills, power_losses, removes),
        off,
        violation,
        states,
    )


LOST = "is in sync and lacks what was acked"
SHOWN = "serves"
CASES = (
    _case("1 value, 3 epochs, a kill", states=113_693, kills=1),
    _case("1 value, 2 epochs, a power loss", states=67_438, epochs=2, power_losses=1),
    _case("2 values, 2 epochs", states=36_939, values=2, epochs=2),
    _case("old epochs are heard", "fence_old_epochs", LOST, epochs=4, removes=False),
    _case("old progress counts", "progress_of_term_only", LOST, epochs=4, removes=False),
    _case("its vote counts at once", "own_vote_when_written", LOST, epochs=2),
    _case("the dropped one counts no more", "count_old_until_read", LOST, epochs=2),
    _case("the coordinator adds", "primary_adds", LOST, epochs=2),
    _case("the new one does not count yet", "count_new_from_cas", LOST, epochs=2),
    _case("a time-out is taken for a no", "timeout_is_no_outcome", LOST, epochs=2),
    _case("adds before it committed again", "recommit_before_adding", LOST),
    _case("offsets are compared, not bytes", "compare_content", SHOWN, values=2, removes=False),
    _case("the mark passes what matched", "mark_within_matched", SHOWN, values=2, removes=False),
    _case("a probe tells what is written", "probe_tells_assigned", LOST, epochs=2, kills=1),
    _case("accepts before it read", "read_before_accepting", LOST, kills=1),
    _case("goes on in its epoch", "raise_epoch_at_restart", LOST, epochs=2, kills=1),
    _case("stays after a power loss", "suspect_leaves", LOST, epochs=2, power_losses=1),
    _case("no incarnation is named", "name_incarnation", LOST, power_losses=1),
    _case("decided from an old view", "decide_from_one_read", LOST),
)
LARGE = (
    _case("2 values, 3 epochs, nobody is dropped", values=2, removes=False),
    _case("2 values, 3 epochs", values=2),
    _case("2 values, 3 epochs, a kill", values=2, kills=1),
    _case("1 value, 4 epochs, a kill", epochs=4, kills=1),
    _case("1 value, 3 epochs, a power loss", power_losses=1),
)
