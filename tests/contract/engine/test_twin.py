"""Random lives: after the same calls the RocksDB engine and its twin give the same answers."""

import random
from pathlib import Path

import pytest

from logstore.base import limits
from logstore.base.errors import LogstoreError
from logstore.base.types import Durability, ProducerSpan
from logstore.engine.memory import MemoryEngine
from logstore.engine.port import CopyFacts, Engine, ReplicaMeta, ReplicaWrite, Retired
from logstore.engine.rocks import RocksEngine, index_runs
from tests.support.engine import ALL, batch_at, copy_of

STEPS = 250
IDS = (1, 2, 3)


def outcome(engine: Engine, call: str, *args: object) -> object:
    try:
        return getattr(engine, call)(*args)
    except LogstoreError as e:
        return type(e)


def compare(ours: Engine, twin: Engine, rng: random.Random) -> None:
    assert sorted(ours.replicas(), key=repr) == sorted(twin.replicas(), key=repr)
    assert sorted(ours.retired(), key=repr) == sorted(twin.retired(), key=repr)
    for r in IDS:
        offset, key = rng.randrange(300), b"key-%d" % rng.randrange(8)
        time_us = rng.randrange(1_000)
        for call, *args in (
            ("end", r),
            ("facts", r),
            ("producers", r),
            ("bytes_stored", r),
            ("position_at", r, offset),
            ("read", r, offset, offset + 40, 2_000),
            ("read_key", r, key, offset, ALL),
            ("count_key", r, key, offset),
            ("count_key", r, key, ALL),
            ("offset_at_time", r, time_us),
        ):
            assert outcome(ours, call, *args) == outcome(twin, call, *args), (call, args)


def step(engines: list[Engine], rng: random.Random) -> None:  # noqa: C901
    r, twin = rng.choice(IDS), engines[-1]
    held = {m.replica_id: m for m in twin.replicas()}
    kind = rng.choices(
        ["write", "trim", "truncate", "drop", "copy", "index", "facts", "retire"],
        [60, 6, 6, 1, 3, 20, 5, 5],
    )[0]
    retired = {c.meta.replica_id for c in twin.retired()}
    if r in retired:
        call = rng.choices(["restore_replica", "drop_replica"], [4, 1])[0]
        for engine in engines:
            getattr(engine, call)(r)
    elif r not in held:
        for engine in engines:
            copy_of(engine, r, key_index=r != 3)
    elif kind == "write":
        end = twin.end(r)
        keys = [b"key-%d" % rng.randrange(8) for _ in range(rng.randint(1, 6))]
        spans = [ProducerSpan(rng.randint(1, 4), end.end + 1, len(keys))]
        batch = batch_at(end, keys, spans=spans, time_us=rng.randrange(1_000))
        for engine in engines:
            engine.write([ReplicaWrite(r, [batch], end.end)], Durability.OS)
    elif kind == "drop":
        for engine in engines:
            engine.drop_replica(r)
    elif kind == "facts":
        facts = CopyFacts("c", "g", rng.randrange(100), rng.randbytes(9), rng.randbytes(9))
        for engine in engines:
            engine.set_facts(r, facts)
    elif kind == "retire":
        mark = Retired("moved away", rng.randrange(100), 1, 2)
        for engine in engines:
            engine.retire_replica(r, mark)
    elif kind == "copy":
        target = rng.choice([i for i in IDS if i != r])
        for engine in engines:
            engine.drop_replica(target)
            snapshot = engine.snapshot(r, twin.end(r).end)
            engine.create_replica(ReplicaMeta(target, f"log/{target}"), snapshot.anchor)
            stored = list(snapshot.batches(snapshot.anchor.base.end))
            engine.write([ReplicaWrite(target, stored)], Durability.OS)
            snapshot.close()
    elif kind == "index":
        engines[0].index_step(rng.randint(1, 40))
    else:
        offset = rng.randint(held[r].base.end, twin.end(r).end)
        if kind == "truncate" and rng.random() < 0.8:
            holding = twin.read(r, offset, ALL, 1)
            offset = holding[0].base_offset if holding else offset
        ours, theirs = (outcome(engine, kind, r, offset) for engine in engines)
        assert ours == theirs, (kind, offset)


@pytest.mark.parametrize("seed", range(5))
def test_both_tell_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(index_runs, "FIRST_TIER_RECORDS", 20)
    monkeypatch.setattr(limits, "PRODUCER_WINDOW", 3)
    rng = random.Random(seed)
    ours, twin = RocksEngine.open(tmp_path / "db"), MemoryEngine()
    for n in range(STEPS):
        step([ours, twin], rng)
        if n % 5 == 0:
            compare(ours, twin, rng)
        if rng.random() < 0.02:
            ours.close()
            ours = RocksEngine.open(tmp_path / "db")
    compare(ours, twin, rng)
    ours.close()
