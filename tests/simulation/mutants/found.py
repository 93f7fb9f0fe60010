"""What the simulator found once, as it was before the mend ("What it found" in the docs)."""

from tests.simulation.mutants.mutant import Edit, Mutant

MUTANTS = (
    Mutant(
        number=42,
        name="failing-writer-not-silent",
        what="A primary whose writes go on failing raises the epoch after each at once (P4).",
        edits=(
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine.write_failed",
                before="self._raise_from_s = now_s + silence_s",
                after="self._raise_from_s = now_s",
            ),
        ),
    ),
    Mutant(
        number=43,
        name="merged-shard-too-early",
        what="A tail begins a merged shard while another parent is yet to be reached (S4).",
        edits=(
            Edit(
                file="logstore/client/reader.py",
                function="Reader._following",
                before="and s.id not in begun and not any(to_come(p) for p in s.predecessors)",
                after="and s.id not in begun",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=44,
        name="append-twice-in-a-group",
        what="An append that comes twice before its group is cut ends the commit task (P10).",
        edits=(
            Edit(
                file="logstore/node/appends/writer.py",
                function="ShardWriter._time_at",
                before="if append.offset == offset:",
                after="if append.offset == offset and offset < 0:",
            ),
        ),
    ),
    Mutant(
        number=45,
        name="full-disk-ends-learner",
        what="A learner that meets a full disk never tries again (liveness).",
        edits=(
            Edit(
                file="logstore/node/replication/catch_up.py",
                function="CatchUp.run",
                before="except StorageFullError as e:",
                after="""
                    except StorageFullError as e:
                        self.phase = f"failed: {e.message}"
                        return
                    except StorageFullError as e:
                """,
            ),
        ),
    ),
    Mutant(
        number=46,
        name="learner-leaves-with-an-epoch",
        what="A learner whose copy is damaged raises the epoch as it leaves (P3).",
        edits=(
            Edit(
                file="logstore/replication/recovery.py",
                function="left_learners",
                before="return replace(record,",
                after="return replace(record, epoch=record.epoch + 1,",
            ),
        ),
        mistakes="disk rolled back",
    ),
    Mutant(
        number=47,
        name="silent-source-waited-for",
        what="A learner waits for a source that fell silent for as long as it likes (F2).",
        edits=(
            Edit(
                file="logstore/feed/direct.py",
                function="DirectFeed._heard",
                before="asyncio.timeout(silence_s)",
                after="asyncio.timeout(None)",
            ),
        ),
    ),
    Mutant(
        number=48,
        name="read-ends-at-unknown-seal",
        what="A read ends at a seal that its map does not know, without the successors (S4).",
        edits=(
            Edit(
                file="logstore/client/reader.py",
                function="Reader._shard",
                before="if place.sealed and not place.finished and spec.shard is None:",
                after="if False:",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=49,
        name="seal-not-told-to-followers",
        what="A follower that is cut off from the metadata passes for one of an open shard (S4).",
        edits=(
            Edit(
                file="logstore/node/replication/pushes.py",
                function="PushIntake._fence",
                before="if request.sealed and (record is None or not is_sealed(record)):",
                after="if request.sealed and request.epoch < 0:",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=50,
        name="write-outlives-its-term",
        what="What a follower wrote in one primary's term passes for matched in the next (P1, P5).",
        edits=(
            Edit(
                file="logstore/node/replication/receiver.py",
                function="Receiver._check_term",
                before="if term != self.term:",
                after="if term < 0:",
            ),
            Edit(
                file="logstore/node/replication/pushes.py",
                function="PushIntake.take",
                before="self._check(request)",
                after="",
            ),
        ),
    ),
    Mutant(
        number=51,
        name="reshape-not-taken-up",
        what="A split whose proposal got no answer is started by nobody (liveness).",
        edits=(
            Edit(
                file="coordinator/migration/resume.py",
                function="resume_reshapes",
                before="await _resume(reshape_table(store), driver, is_new)",
                after="await driver.start()",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=52,
        name="unprobed-peer-drained",
        what="A peer counts as drained before it matched, and what is above a seal commits (S1).",
        edits=(
            Edit(
                file="logstore/replication/handing.py",
                function="Handing._drained",
                before="self.peers[r].known and self.peers[r].match == self.end",
                after="self.peers[r].match == self.end",
            ),
            Edit(
                file="logstore/replication/machine.py",
                function="ReplicationMachine._at_most_sealed",
                before="return min(offset, record.sealed_end)",
                after="return offset",
            ),
        ),
        splits=True,
    ),
    Mutant(
        number=53,
        name="cut-not-synced",
        what="With fsync a power loss brings back what a follower cut off (P5).",
        edits=(
            Edit(
                file="logstore/node/replication/receiver.py",
                function="Receiver.probe",
                before="self.log.truncate(cut, self.durability)",
                after="self.log.truncate(cut)",
            ),
            Edit(
                file="logstore/node/replication/receiver.py",
                function="Receiver.apply",
                before="self.log.truncate(plan.truncate_to, self.durability)",
                after="self.log.truncate(plan.truncate_to)",
            ),
        ),
    ),
    Mutant(
        number=54,
        name="probe-tells-written-end",
        what="A probe tells what the primary wrote, and the peer cuts what it acked above (P5).",
        edits=(
            Edit(
                file="logstore/node/replication/peer_sender.py",
                function="PeerSender._probe",
                before="assigned = self._machine.assigned",
                after="assigned = self._machine.end",
            ),
        ),
    ),
    Mutant(
        number=55,
        name="leads-before-writes-land",
        what="A follower leads, and seals, while a batch is still being written to it (P4, S1).",
        edits=(
            Edit(
                file="logstore/node/instance/replica.py",
                function="Replica._leads_at_once",
                before="if not (self.writer.writing or self.receiver.writing):",
                after="if self.copy.landing >= 0:",
            ),
        ),
    ),
    Mutant(
        number=56,
        name="full-disk-stops-following",
        what="An instance that cannot open a copy follows nothing else meanwhile (liveness).",
        edits=(
            Edit(
                file="logstore/node/instance/instance.py",
                function="Instance._open_if_room",
                before="if record.shard not in self._no_room:",
                after="""
                    raise
                    if record.shard not in self._no_room:
                """,
            ),
            Edit(
                file="logstore/node/instance/instance.py",
                function="Instance._fill",
                before="self.metadata_view.filled = False",
                after="pass",
            ),
        ),
    ),
    Mutant(
        number=57,
        name="diverged-copy-kept",
        what="A former member that holds what was lost stays a learner for ever (P6).",
        edits=(
            Edit(
                file="logstore/replication/changes.py",
                function="set_aside",
                before="""
                    learners = tuple(
                        m for m in record.learners if m.replica_id not in bad)
                """,
                after="learners = record.learners",
            ),
        ),
    ),
    Mutant(
        number=58,
        name="older-store-not-noticed",
        what="A store of our generation is followed though it is older than what we did (I13).",
        edits=(
            Edit(
                file="logstore/node/instance/claim.py",
                function="Claim.is_accepted",
                before="""
                    return ids == [self.identity.generation] and
                        newest.revision >= self.point().revision
                """,
                after="return ids == [self.identity.generation]",
            ),
        ),
        mistakes="under running",
    ),
    Mutant(
        number=59,
        name="facts-end-with-a-copy",
        what="A copy that is retired while its facts wait ends the task that keeps facts (P9).",
        edits=(
            Edit(
                file="logstore/node/instance/copies.py",
                function="InstanceCopies.keep_facts",
                before="except UnknownShardError: continue",
                after="""
                    except UnknownShardError:
                        raise
                """,
            ),
        ),
    ),
    Mutant(
        number=60,
        name="no-feed-before-settled",
        what="A primary with too few members feeds nobody before it has settled (P4, liveness).",
        edits=(
            Edit(
                file="logstore/node/resources/copy.py",
                function="Copy.is_in_term",
                before="return self._machine.term_began",
                after="return False",
            ),
        ),
    ),
    Mutant(
        number=120,
        name="late-copy-trusted",
        what="A successor's copy that begins late counts at once, though an old disk lost it (P6).",
        edits=(
            Edit(
                file="logstore/node/instance/instance.py",
                function="Instance._open",
                before="late = record.epoch > 1",
                after="late = False",
            ),
        ),
        splits=True,
        mistakes="disk rolled back",
    ),
)
