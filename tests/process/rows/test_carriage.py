"""R0.1, R0.2, R0.3, R2.4, R2.5, R2.8, R5.8, R5.11: records, by the commands of a stranger."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import logstore
from coordinator.local.cluster import ClusterOptions, LocalCluster, running
from coordinator.local.journal import Journal
from tests.process.rows.cluster_command import told, told_json
from tests.support.rows import record
from tests.support.sealing import LOG, Writers, verdict_of

pytestmark = pytest.mark.timeout(240)
QUICK = ("--option", "soak_s=0.2")


@dataclass(frozen=True)
class Bench:
    """A cluster of three instances, its client, and commands run against it."""

    cluster: LocalCluster
    db: logstore.Client

    async def run(self, *arguments: str) -> str:
        return await told(self.cluster.address, *arguments)

    async def rows(self, *arguments: str) -> Any:
        return await told_json(self.cluster.address, *arguments)

    async def shards(self, log: str = LOG) -> list[dict[str, Any]]:
        """The open shards, by key."""
        found = await self.rows("shards", log)
        return sorted(
            (s for s in found if s["status"] == "open"), key=lambda s: str(s["range"]["start"])
        )


@asynccontextmanager
async def bench(folder: Path, **options: Any) -> AsyncIterator[Bench]:
    given = {"coordinator_settings": {"report_interval_s": 0.2}, "autopilot": "off"}
    started = ClusterOptions(data=folder / "data", instances=3, **(given | options))
    async with running(started) as cluster, logstore.connect(cluster.addresses) as db:
        yield Bench(cluster, db)


async def test_r0_1_records_are_appended_read_and_tailed(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.run("log", "create", LOG)
        acks = [await b.rows("append", LOG, key, f"v{n}") for n, key in enumerate("abac")]
        assert [ack["offset"] for ack in acks] == [0, 1, 2, 3]
        lines = (await b.run("read", LOG, "--key", "a", "--json")).splitlines()
        assert len(lines) == 2
        by_offset = await b.run("read", LOG, "--shard", f"{LOG}/0", "--offset", "2", "--json")
        assert [line.count('"key"') for line in by_offset.splitlines()] == [1, 1]
        scanned = await b.run("read", LOG, "--start", "a", "--end", "c", "--order", "key", "--json")
        assert len(scanned.splitlines()) == 3
        log = await b.db.log(LOG)
        tail = log.tail(from_start=True)
        seen = [await anext(tail) for _ in range(4)]
        assert [(r.offset, r.key) for r in seen] == [(0, b"a"), (1, b"b"), (2, b"a"), (3, b"c")]
        assert all(r.timestamp > 0 for r in seen)
        last = await log.append(b"d", b"e", headers={"trace": b"7"})
        found = await anext(tail)
        assert (found.offset, found.headers) == (last.offset, {"trace": b"7"})
        await tail.aclose()
    record("R0.1", command="logstore read LOG --key K", figure="5 records, offsets 0 to 4, tailed")


async def test_r0_2_the_map_of_ranges_has_a_version(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        before = await b.rows("log", "create", LOG, "--shards", "3", "--alphabet", "a-z")
        assert {s["primary"]["instance"] for s in before["shards"]} <= set(b.cluster.pids)
        await b.run("split", f"{LOG}/1", "--at", "k")
        after = await b.rows("log", "describe", LOG)
        assert after["map_version"] > before["map_version"]
        shards = await b.shards()
        assert len(shards) == 4
        starts = [s["range"]["start"] for s in shards]
        ends = [s["range"]["end"] for s in shards]
        assert sorted(starts)[1:] == sorted(e for e in ends if e is not None)
    figure = f"3 ranges, 4 after a split; map version {before['map_version']} to "
    record("R0.2", command="logstore shards LOG", figure=f"{figure}{after['map_version']}")


async def moved(b: Bench, shard: str, *flags: str, to: str = "") -> dict[str, Any]:
    """Move the shard, by default to an instance that does not lead it, and wait for the end."""
    rows = await b.rows("shards", LOG)
    home = next(s for s in rows if s["shard"] == shard)["primary"]["instance"]
    target = to or next(n for n in b.cluster.instance_addresses if n != home)
    if target == home:
        return {}
    begun = await b.rows("move", shard, target, *flags, *QUICK)
    await b.run("migrations", begun["id"], "--watch")
    found: dict[str, Any] = await b.rows("migrations", begun["id"])
    return found


async def test_r0_3_r5_11_order_is_kept_through_every_change(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    async with bench(tmp_path, replicas=3) as b:
        await b.run("log", "create", LOG)
        async with Writers(b, Journal(path, LOG), keys=24) as writers:
            await writers.more(200)
            await b.run("split", f"{LOG}/0", "--at", "k012")
            await writers.more(100)
            left, right = [s["shard"] for s in await b.shards()]
            ended = await moved(b, left)
            assert ended["state"] == "completed"
            await writers.more(100)
            added = await b.cluster.add_instance()
            assert added in {i["instance"] for i in await b.rows("instances", "list")}
            led = {s["shard"]: s["primary"]["instance"] for s in await b.shards()}
            b.cluster.kill(led[right])
            await writers.more(100)
            await b.cluster.wait_ready()
            left_home = next(s for s in await b.shards() if s["shard"] == left)["primary"]
            await moved(b, right, to=left_home["instance"])
            await b.run("merge", left, right)
            await writers.more(100)
        assert writers.failed == []
        verdict = await verdict_of(b, path)
        assert verdict.ok, verdict.sentence()
    sentence = f"{writers.acked} appends: {verdict.sentence()}"
    record("R0.3", command="logstore verify --journal FILE", figure=sentence)
    figure = f"an instance added and one killed under load; longest gap {writers.gap_ms:.0f} ms"
    record("R5.11", command="logstore instances list", figure=figure)


async def test_r2_4_any_one_instance_may_fail(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.run("log", "create", LOG, "--option", "replicas=3")
        log = await b.db.log(LOG)
        await log.append_many([b"k%d" % n for n in range(100)], [b"v"] * 100)
        (shard,) = await b.shards()
        async with asyncio.timeout(30):
            while len(shard["in_sync"]) < 3:
                (shard,) = await b.shards()
        assert len({m["instance"] for m in shard["in_sync"]}) == 3
        began = time.monotonic()
        b.cluster.lose(shard["primary"]["instance"])
        await log.append(b"after", b"v")
        took_s = time.monotonic() - began
        assert len([r async for r in log.read()]) == 101
    figure = f"3 copies on 3 instances; {took_s:.1f} s from kill -9 of the primary to an ack"
    record("R2.4", command="logstore log create LOG --option replicas=3", figure=figure)


async def test_r2_5_r2_8_each_strategy_moves_verifies_and_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    blackouts = {}
    async with bench(tmp_path) as b:
        await b.run("log", "create", LOG)
        async with Writers(b, Journal(path, LOG), keys=16) as writers:
            for strategy in ("shadow", "log-shipping", "copy-on-write"):
                await writers.more(50)
                (shard,) = await b.shards()
                source = shard["primary"]
                ended = await moved(b, shard["shard"], "--strategy", strategy)
                assert (ended["state"], ended["hash_equal"]) == ("completed", True), strategy
                blackouts[strategy] = ended["blackout_ms"]
                (now,) = await b.shards()
                assert now["primary"]["instance"] == ended["target"] != source["instance"]
                copies = await b.rows("copies", "list")
                kept = [c for c in copies if c["replica_id"] == source["replica_id"]]
                assert [c["state"] for c in kept if c["state"] != "retired"] == []
        verdict = await verdict_of(b, path)
        assert verdict.ok, verdict.sentence()
    held = ", ".join(f"{name} {ms:.1f} ms" for name, ms in blackouts.items() if ms is not None)
    record("R2.5", command="logstore move SHARD INSTANCE --strategy S", figure=f"blackout: {held}")
    figure = f"3 moves with equal chains, no source's copy left; {verdict.sentence()}"
    record("R2.8", command="logstore migrations ID", figure=figure)


async def test_r5_8_a_snapshot_and_then_a_feed(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.run("log", "create", LOG)
        log = await b.db.log(LOG)
        for _ in range(20):
            await log.append_many([b"k%03d" % n for n in range(100)], [b"x" * 1000] * 100)
        ended = await moved(b, f"{LOG}/0", "--strategy", "shadow")
        states = list(ended["phase_s"])
        assert states.index("snapshot") < states.index("catching-up") < states.index("cutover")
        assert ended["feed"] == "direct" if "feed" in ended else True
        assert (ended["state"], ended["hash_equal"]) == ("completed", True)
        assert ended["bytes"] > 1_000_000
        assert len([r async for r in log.read()]) == 2_000
    figure = f"{ended['bytes'] / 1e6:.1f} MB at {ended['copy_mb_per_s']:.0f} MB/s, then the feed"
    record("R5.8", command="logstore migrations ID --story", figure=figure)
