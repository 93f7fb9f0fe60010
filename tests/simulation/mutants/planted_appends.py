"""Planted in the records' path: appends at the primary, in the forwarder and in the client."""

from tests.simulation.mutants.mutant import Edit, Mutant

MUTANTS = (
    Mutant(
        number=83,
        name="gap-in-a-sequence",
        what="A producer's append is taken though the one before it is missing (I6, P10).",
        edits=(
            Edit(
                file="logstore/node/appends/writer.py",
                function="ShardWriter._settle",
                before="if append.sequence != last + 1:",
                after="if append.sequence < last + 1:",
            ),
        ),
    ),
    Mutant(
        number=84,
        name="older-sequence-taken",
        what="A sequence that is older than what the table remembers is stored again (I6).",
        edits=(
            Edit(
                file="logstore/node/appends/writer.py",
                function="ShardWriter._settle",
                before="if append.sequence != last + 1:",
                after="if append.sequence > last + 1:",
            ),
        ),
    ),
    Mutant(
        number=85,
        name="window-one-short",
        what="The table forgets the oldest append of a producer's window (I6).",
        edits=(
            Edit(
                file="logstore/engine/producers.py",
                function="ProducerTable.find",
                before="entries[-1].sequence - limits.PRODUCER_WINDOW",
                after="entries[-1].sequence - limits.PRODUCER_WINDOW + 1",
            ),
        ),
    ),
    Mutant(
        number=86,
        name="failed-group-remembered",
        what="A retry of an append whose write failed is called a duplicate (I6, P5).",
        edits=(
            Edit(
                file="logstore/node/appends/writer.py",
                function="ShardWriter.failed",
                before="self.reload()",
                after="self.end = self.log.end()",
            ),
        ),
    ),
    Mutant(
        number=87,
        name="failed-write-is-final",
        what="An append whose write failed after peers got it is told to be not stored (P10).",
        edits=(
            Edit(
                file="logstore/node/appends/writer.py",
                function="ShardWriter.failed",
                before="if self.sent:",
                after="if self.sent and not self._group:",
            ),
        ),
    ),
    Mutant(
        number=88,
        name="duplicate-acked-early",
        what="A duplicate is acked before what it cites is committed (P10).",
        edits=(
            Edit(
                file="logstore/node/appends/writer.py",
                function="ShardWriter._settle",
                before="self._ack_later(append, entry.offset + entry.count)",
                after="_resolve(append, self.shard)",
            ),
        ),
    ),
    Mutant(
        number=89,
        name="conflict-told-early",
        what="A version conflict is told before what it cites is committed (P10).",
        edits=(
            Edit(
                file="logstore/node/appends/writer.py",
                function="ShardWriter._settle",
                before="self._ack_later(append, end)",
                after="_resolve(append, self.shard)",
            ),
        ),
    ),
    Mutant(
        number=90,
        name="version-kept-too-long",
        what="A key's remembered version misses the unconditional appends since (I6).",
        edits=(
            Edit(
                file="logstore/node/appends/writer.py",
                function="ShardWriter._version_of",
                before="if cached is not None and cached[1] >= self._unconditional_end:",
                after="if cached is not None:",
            ),
        ),
    ),
    Mutant(
        number=91,
        name="stopped-primary-acks",
        what="A primary that lost its leadership acks what waits instead of refusing it (I2).",
        edits=(
            Edit(
                file="logstore/node/appends/writer.py",
                function="ShardWriter.stop",
                before="append.refuse(error)",
                after="_resolve(append, self.shard)",
            ),
        ),
    ),
    Mutant(
        number=92,
        name="admits-while-sealing",
        what="A primary admits appends while it seals its shard (S1).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._act",
                before="""
                    and record.status is ShardStatus.OPEN
                    and not self._sealing()
                    and self._stopped_s is None
                """,
                after="and record.status is not ShardStatus.SEALED",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=93,
        name="stored-above-the-seal",
        what="A sealed shard calls what a copy holds above its end a duplicate (S1).",
        edits=(
            Edit(
                file="logstore/node/appends/sealed.py",
                function="SealedAnswers._known",
                before="if e.offset + e.count <= end",
                after="if end >= 0",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=94,
        name="sealed-at-any-chain",
        what="A copy serves a sealed shard though its chain at the end is another (S5).",
        edits=(
            Edit(
                file="logstore/node/resources/copy.py",
                function="Copy.holds_seal",
                before="self.log.position_at(end.end) == end:",
                after="self.log.position_at(end.end) is not None:",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=95,
        name="stale-forwarder",
        what="A follower forwards to the instance that led when it began to follow (H3).",
        edits=(
            Edit(
                file="logstore/node/appends/append_gate.py",
                function="AppendGate.pass_on",
                before="self.stop_forwarding() if role is Role.FOLLOWER:",
                after="if role is Role.FOLLOWER and self._forwarder is None:",
            ),
        ),
    ),
    Mutant(
        number=96,
        name="forwarded-without-sequence",
        what="A forwarded append loses its producer id and sequence (H3, I6).",
        edits=(
            Edit(
                file="logstore/node/appends/forward.py",
                function="Forwarder._message",
                before="message.forwarded = True",
                after="""
                    message.forwarded = True
                    message.producer_id = message.sequence = 0
                """,
            ),
        ),
    ),
    Mutant(
        number=97,
        name="held-appends-out-of-order",
        what="What was held during a hand-over is forwarded in the wrong order (H3).",
        edits=(
            Edit(
                file="logstore/node/appends/append_gate.py",
                function="AppendGate.pass_on",
                before="for append in held:",
                after="for append in reversed(held):",
            ),
        ),
        behind=(
            "the next primary refuses what does not follow a producer's last sequence "
            "(`ShardWriter._settle`), and the client sends it again in order."
        ),
    ),
    Mutant(
        number=98,
        name="broken-stream-is-certain",
        what="A batch in flight on a broken stream counts as not stored (I6).",
        edits=(
            Edit(
                file="logstore/client/lane.py",
                function="Lane.broken",
                before="entry.uncertain = True",
                after="entry.uncertain = False",
            ),
        ),
    ),
    Mutant(
        number=99,
        name="unavailable-is-certain",
        what="A client takes `unavailable` for not stored (I6).",
        edits=(
            Edit(
                file="logstore/client/lane.py",
                function="Lane.refused",
                before="entry.uncertain |= error.code in _UNKNOWN",
                after="entry.uncertain |= error.code == 'outcome_unknown'",
            ),
        ),
    ),
    Mutant(
        number=100,
        name="uncertain-under-a-new-producer",
        what="A lane that starts over sends what may be stored again as a new producer (I6).",
        edits=(
            Edit(
                file="logstore/client/lane.py",
                function="Lane._start_over",
                before="if entry.uncertain:",
                after="if entry.uncertain and entry.abandoned:",
            ),
        ),
    ),
    Mutant(
        number=101,
        name="uncertain-to-the-successors",
        what="What a sealed parent may have stored is sent to its successors as new (S2).",
        edits=(
            Edit(
                file="logstore/client/lane.py",
                function="Lane.abort",
                before="if not (e.outstanding or e.uncertain or e.abandoned)",
                after="if not e.abandoned",
            ),
            Edit(
                file="logstore/client/lane.py",
                function="Lane.abort",
                before="if (entry.outstanding or entry.uncertain) and not entry.abandoned",
                after="if False",
            ),
            Edit(
                file="logstore/client/sender.py",
                function="Sender._can_ask",
                before="return self.lane.undecided and not self.shard.is_open",
                after="return False",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=102,
        name="successor-before-parent-resolved",
        what="A producer appends to a successor before its parent's appends are decided (S2).",
        edits=(
            Edit(
                file="logstore/client/sender.py",
                function="Sender._pump",
                before="self.waiting = self._host.waits_for(self)",
                after="self.waiting = False",
            ),
        ),
        splits=True,
    ),
)
