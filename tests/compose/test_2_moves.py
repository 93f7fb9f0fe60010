"""Moves through Kafka, with and without Kafka."""

import time
from typing import Any

from coordinator.migration.ledger import Ledger
from coordinator.migration.records import State
from logstore.base.env import Env
from logstore.meta.records import decode_shard, shard_key
from tests.cluster.cluster import NotConverged, eventually
from tests.cluster.judge import MetadataWatch
from tests.compose import cli
from tests.compose.conftest import Running
from tests.compose.figures import longest_gap_ms
from tests.compose.stack import Stack

QUICK = ("--option", "ramp_step=0.1", "--option", "soak_s=2", "--option", "samples_min=10")
SLOW_BYTES_PER_S = 3_000
"""The snapshot of what the load wrote takes a few seconds at this pace."""


async def free_instance(stack: Stack, shard: str) -> str:
    """One that holds no copy of the shard."""
    record = (await stack.shards(shard.rpartition("/")[0]))[shard]
    return next(i for i in stack.instances if record.member_on(i) is None)


def watch_topics(watch: MetadataWatch, shard: str) -> set[str]:
    """Every feed topic that the shard's record ever named."""
    values = [txn.written.get(shard_key(shard)) for txn in watch.txns]
    return {t for t in (decode_shard(v).feed_topic for v in values if v) if t}


async def test_move_through_kafka(stack: Stack, watch: MetadataWatch, running: Running) -> None:
    async with running("kafka-move") as run:
        shard = "kafka-move/0"
        target = await free_instance(stack, shard)
        began_s = time.monotonic()
        found: dict[str, Any] = await cli.logstore(
            stack.addresses, "move", shard, target, "--strategy", "shadow", "--feed", "kafka",
            "--watch", *QUICK,
        )  # fmt: skip
        assert (found["state"], found["hash_equal"]) == ("completed", True), found
        assert not [n for n in found["notes"] if "direct" in n], found["notes"]
        gap_ms = longest_gap_ms(run.load.acks[shard], began_s)
        print(
            f"\nkafka move: {found['duration_s']:.1f} s, blackout at the source "
            f"{found['blackout_ms']:.1f} ms, longest time between two acks {gap_ms:.0f} ms "
            f"(a producer that sends every 50 ms)"
        )
        record = (await stack.shards("kafka-move"))[shard]
        assert record.primary.instance == target

        async def swept() -> None:
            """Its topic was there, made by the publishing primary, and is not any more."""
            topics = watch_topics(watch, shard)
            if len(topics) != 1:
                raise NotConverged(f"topics named in the metadata: {topics}")
            logs = await stack.compose.run("logs", "--no-color", "c1", "c2")
            if f'"topic": "{topics.pop()}", "event": "feed topic deleted"' not in logs:
                raise NotConverged("the topic has not been swept")

        await eventually(swept, 60.0)
    print(f"{run.load.counts.failed} calls failed during the move")


async def test_kafka_stops_in_mid_move(stack: Stack, running: Running) -> None:
    """The feed falls back to the source itself; the move completes without a person."""
    ledger = Ledger(stack.store, Env())
    async with running("kafka-stops") as run:
        shard = "kafka-stops/1"
        target = await free_instance(stack, shard)
        asked = await cli.logstore(
            stack.addresses, "move", shard, target, "--strategy", "shadow", "--feed", "kafka",
            *QUICK, "--option", f"throttle_bytes_per_s={SLOW_BYTES_PER_S}",
            "--option", "feed_deadline_s=3",
        )  # fmt: skip

        async def copying() -> None:
            state = (await ledger.get(asked["id"])).state
            if state not in (State.SNAPSHOT, State.CATCHING_UP):
                raise NotConverged(f"{asked['id']} is {state.value}")

        await eventually(copying, 30.0)
        run.load.recorder.fault("stop kafka")
        await stack.kill("kafka")
        state = (await ledger.get(asked["id"])).state
        assert state in (State.SNAPSHOT, State.CATCHING_UP), state

        async def ended() -> None:
            record = await ledger.get(asked["id"])
            if record.active:
                raise NotConverged(f"{record.id} is {record.state.value}: {record.notes}")

        await eventually(ended, 90.0)
        found = await ledger.get(asked["id"])
        assert found.state is State.COMPLETED, found
        print(f"\nkafka stopped in {state.value}: {found.notes}")
        await stack.start("kafka")
