"""Split and merge under load: real instances, real client, conditional appenders and a tail."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.local.journal import Journal
from coordinator.migration.reshape import ReshapeState, reshape_key
from coordinator.migration.resume import resume_reshapes
from logstore.base.errors import InvalidArgumentError, VersionConflictError
from logstore.meta.port import Put
from logstore.meta.records import encode
from tests.support.sealing import LOG, Tail, Writers, sealing, verdict_of


async def test_split_and_merge_under_load(tmp_path: Path) -> None:
    path = tmp_path / "w.journal"
    async with sealing(tmp_path / "data") as bench:
        with Journal(path, LOG) as journal:
            async with Tail(bench) as tail:
                async with Writers(bench, journal) as writers:
                    await writers.more(300)
                    split = await bench.split(f"{LOG}/0", b"k025")
                    assert split.state is ReshapeState.COMPLETED, split.cause
                    assert split.successors == (f"{LOG}/1", f"{LOG}/2")
                    await writers.more(300)
                    merge = await bench.merge(f"{LOG}/1", f"{LOG}/2")
                    assert merge.state is ReshapeState.COMPLETED, merge.cause
                    await writers.more(300)
                    again = await bench.split(f"{LOG}/3", b"k010")
                    assert again.state is ReshapeState.COMPLETED, again.cause
                    await writers.more(300)
                    stall_ms = writers.gap_ms
                await tail.reach(writers.acked)
                assert tail.faults() == []
                assert tail.count == writers.acked
        assert writers.failed == []
        assert [s.shard for s in await bench.open_shards()] == [f"{LOG}/4", f"{LOG}/5"]
        verdict = await verdict_of(bench, path)
        assert verdict.ok, verdict
        assert verdict.acked == verdict.in_log
    assert stall_ms < 5_000
    print(f"longest gap between acks {stall_ms:.0f} ms; held {split.stall_ms} {merge.stall_ms}")


async def test_a_key_keeps_its_version_and_history_across_seals(tmp_path: Path) -> None:  # S3
    async with sealing(tmp_path) as bench:
        log = await bench.db.log(LOG)
        for i in range(3):
            await log.append(b"a", b"%d" % i)
        await log.append(b"z", b"0")
        await bench.split(f"{LOG}/0", b"m")
        assert (await log.append(b"a", b"3", expected_version=3)).version == 4
        with pytest.raises(VersionConflictError, match="has 1"):
            await log.append(b"z", b"1", expected_version=0)
        await bench.merge(f"{LOG}/1", f"{LOG}/2")
        ack = await log.append(b"a", b"4", expected_version=4)
        assert (ack.shard, ack.offset, ack.version) == (f"{LOG}/3", 0, 5)
        assert [r.value async for r in log.read(key=b"a")] == [b"0", b"1", b"2", b"3", b"4"]
        assert [r.value async for r in log.read(key=b"z")] == [b"0"]
        ordered = [(r.key, r.value) async for r in log.read(order="key")]
        assert ordered == [(b"a", b"%d" % i) for i in range(5)] + [(b"z", b"0")]


async def test_a_tail_reads_every_parent_before_what_was_merged_from_them(tmp_path: Path) -> None:
    """The tail is still at the first shard when its successors were split and merged (S4)."""
    async with sealing(tmp_path) as bench:
        log = await bench.db.log(LOG)
        sent: dict[bytes, int] = dict.fromkeys((b"a", b"h", b"z"), 0)

        async def more(times: int) -> None:
            for _ in range(times):
                for key in sent:
                    await log.append(key, b"%d" % sent[key])
                    sent[key] += 1

        await more(1)
        tail = log.tail(from_start=True)
        seen = [await anext(tail)]
        await bench.split(f"{LOG}/0", b"m")
        await more(2)
        large = [b"b"] * 400  # the left one takes a while to read
        await log.append_many(large, [bytes(50_000)] * len(large))
        await bench.split(f"{LOG}/1", b"g")
        await more(2)
        merge = await bench.merge(f"{LOG}/4", f"{LOG}/2")
        assert merge.successors == (f"{LOG}/5",)
        await more(2)
        async with asyncio.timeout(30):
            while len(seen) < sum(sent.values()) + len(large):
                seen.append(await anext(tail))
        await tail.aclose()
        for key, count in sent.items():
            assert [int(r.value) for r in seen if r.key == key] == list(range(count))


async def test_what_cannot_be_reshaped_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with sealing(tmp_path, 2) as bench:
        with pytest.raises(InvalidArgumentError, match="not strictly inside"):
            await bench.split(f"{LOG}/0", b"")
        await bench.split(f"{LOG}/0", b"m")
        with pytest.raises(InvalidArgumentError, match="is sealed, not open"):
            await bench.split(f"{LOG}/0", b"c")
        await bench.split(f"{LOG}/1", b"c")
        with pytest.raises(InvalidArgumentError, match="are no neighbours"):
            await bench.merge(f"{LOG}/3", f"{LOG}/2")


@pytest.mark.parametrize("watched", [True, False], ids=["while watching", "before"])
async def test_a_split_is_taken_up_whoever_wrote_it(tmp_path: Path, watched: bool) -> None:
    """As a proposal leaves it that was written, and whose answer was lost."""
    async with sealing(tmp_path) as bench:
        store = bench.nodes.store
        draft = await bench.reshapes.draft([f"{LOG}/0"], b"m")
        write = Put(reshape_key("r1"), encode(replace(draft, id="r1")))
        if not watched:
            await store.txn([], [write])
        watchers = set(store._watchers)
        taking = asyncio.create_task(resume_reshapes(store, bench.reshapes))
        async with asyncio.timeout(10):
            if watched:
                while store._watchers <= watchers:
                    await asyncio.sleep(0)
                await store.txn([], [write])
            while len(await bench.open_shards()) != 2:
                await asyncio.sleep(0.01)
        assert (await bench.reshapes.ended("r1")).state is ReshapeState.COMPLETED
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)


async def test_a_read_with_an_old_map_goes_on_in_the_successors(tmp_path: Path) -> None:
    """Who told the map may be cut off from the metadata; the sealed shard itself knows better."""
    async with sealing(tmp_path) as bench:
        log, directory = await bench.db.log(LOG), bench.db._directory
        before = await directory.refresh(LOG)
        for n in range(3):
            await log.append(b"a", b"%d" % n)
            await log.append(b"z", b"%d" % n)
            if n < 2:
                await bench.split(*((f"{LOG}/0", b"m") if n == 0 else (f"{LOG}/1", b"c")))

        def old_map() -> None:
            directory._routers[LOG] = before

        old_map()
        assert [(r.key, r.value) async for r in log.read(order="key")] == [
            (key, b"%d" % n) for key in (b"a", b"z") for n in range(3)
        ]
        old_map()
        assert [r.value async for r in log.read(key=b"a")] == [b"0", b"1", b"2"]
        old_map()
        assert [r.value async for r in log.read(key=b"none")] == []
        old_map()
        rows = [(r.key, r.value) async for r in log.read()]
        assert [v for k, v in rows if k == b"z"] == [b"0", b"1", b"2"]
        assert len(rows) == 6
