"""Options have types: a wrong one is known to mypy, and at run time it is named with its value and
with those that are close.
"""

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import logstore
from logstore.base.errors import InvalidArgumentError
from logstore.client.options import CREATE_LOG
from logstore.client.read_spec import spec_of
from logstore.meta.records import LogOptions
from tests.support.clients import Starter, client_of

ROOT = Path(__file__).resolve().parents[3]

CALLS = """\
from typing import assert_type
import logstore

async def right(db: logstore.Client, options: logstore.ReadOptions) -> None:
    log = await db.create_log("l", partitioner="hash", shards=2, durability="fsync", replicas=3)
    assert_type(log, logstore.Log)
    assert_type([r async for r in log.read(key=b"k", order="key")], list[logstore.Record])
    assert_type(log.read(**options), logstore.Records)
    assert_type(log.tail(since=5, from_start=True, idle_timeout_s=0.5), logstore.Records)
    assert_type(log.scan(start=b"a", end=None, limit=3), logstore.Scan)
    assert_type(await log.append(b"k", b"v", expected_version=0), logstore.Ack)

def right_too(db: logstore.SyncClient, options: logstore.TailOptions) -> None:
    log = db.create_log("l", split_keys=[b"m"], compression="zstd", retention_s=None)
    assert_type(log, logstore.SyncLog)
    assert_type([r for r in log.read(shard="l/0", offset=3)], list[logstore.Record])
    assert_type(log.tail(**options), logstore.SyncRecords)
    assert_type(log.append_many([b"k"], [b"v"]), list[logstore.Ack])
    assert_type(log.name, str)

async def wrong(db: logstore.Client, log: logstore.Log) -> None:
    await db.create_log("l", replica=3)  # WRONG
    await db.create_log("l", replicas="3")  # WRONG
    await db.create_log("l", partitioner="hsah")  # WRONG
    await db.create_log("l", compression="rar")  # WRONG
    await db.create_log("l", split_keys=["m"])  # WRONG
    log.read(ofset=3)  # WRONG
    log.read(order="time")  # WRONG
    log.read(from_start=True)  # WRONG
    log.tail(order="key")  # WRONG
    log.tail(idle_timeout_s="5")  # WRONG
    log.scan(key="k")  # WRONG
    await log.append("k", b"v")  # WRONG
    await log.append(b"k", b"v", header={})  # WRONG

def wrong_too(db: logstore.SyncClient, log: logstore.SyncLog) -> None:
    db.create_log("l", replica=3)  # WRONG
    db.create_log("l", durability="sync")  # WRONG
    db.delete_log("l", now="yes")  # WRONG
    log.read(ofset=3)  # WRONG
    log.tail(limit="3")  # WRONG
    log.scan(since="yesterday")  # WRONG
    log.append(b"k", b"v", expected_version="1")  # WRONG
    log.append(b"k", b"v").offsett  # WRONG
"""


@pytest.mark.timeout(600)
def test_mypy_knows_right_from_wrong(tmp_path: Path) -> None:
    file = tmp_path / "calls.py"
    file.write_text(CALLS)
    config = str(ROOT / "pyproject.toml")
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", config, "--no-error-summary", str(file)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    message = {int(at) for at in re.findall(r"calls\.py:(\d+): error:", ran.stdout)}
    wrong = {at for at, line in enumerate(CALLS.splitlines(), 1) if line.endswith("# WRONG")}
    assert message == wrong, ran.stdout + ran.stderr


def test_the_types_name_the_options_that_there_are() -> None:
    fields = {field.name for field in dataclasses.fields(LogOptions)}
    assert set(logstore.CreateLogOptions.__annotations__) | {"partitioner"} == fields
    named = inspect.signature(logstore.Client.create_log).parameters
    assert [p for p in named if p not in ("self", "name", "options")] == list(CREATE_LOG)
    taken = {
        p.name for p in inspect.signature(spec_of).parameters.values() if p.kind is p.KEYWORD_ONLY
    }
    assert set(logstore.ReadOptions.__annotations__) == taken
    tail = set(logstore.TailOptions.__annotations__)
    assert tail == taken - {"order"} | {"from_start", "idle_timeout_s"}
    for kind, also in (
        (logstore.CreateLogOptions, ""),
        (logstore.ReadOptions, ""),
        (logstore.TailOptions, logstore.ReadOptions.__doc__ or ""),
    ):
        assert set(kind.__annotations__) <= set(re.findall(r"\w+", f"{kind.__doc__}{also}"))


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        ("read", {"ofset": 5}, r"read has no option ofset \(it is 5\): did you mean offset\?"),
        ("read", {"from_start": True}, r"read has no option from_start .*: did you mean start\?"),
        ("read", {"colour": "red"}, r"read has no option colour \(it is 'red'\): its options are"),
        ("tail", {"order": "key"}, r"tail has no option order \(it is 'key'\)"),
        ("tail", {"idle_timeout": 1}, r"did you mean idle_timeout_s\?"),
        ("scan", {"keys": b"k"}, r"scan has no option keys .*: did you mean key\?"),
        ("scan", {"x" * 500: 1}, r"scan has no option x"),
        ("lists", {"tail": True, "limt": 1}, r"lists has no option limt .*: did you mean limit\?"),
    ],
)
async def test_a_wrong_option_of_a_read_is_named(
    start: Starter, call: str, options: dict[str, Any], message: str
) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        with pytest.raises(InvalidArgumentError, match=message):
            getattr(log, call)(**options)
    assert not cluster.instances["a"].reads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replica": 3}, r"a log has no option replica \(it is 3\): did you mean replicas\?"),
        ({"shard": 3}, r"a log has no option shard \(it is 3\): did you mean shards\?"),
        (
            {"color": "red"},
            r"a log has no option color \(it is 'red'\): its options are changefeed,",
        ),
        ({"replicas": None}, r"replicas is None \(NoneType\), expected int, got null"),
        ({"key_index": "yes"}, r"key_index is 'yes', expected bool, got str"),
        ({"durability": "sync"}, r"durability is 'sync', expected one of os, fsync"),
        ({"partitioner": "hsah"}, r"partitioner is 'hsah', expected one of range, hash, balanced"),
        ({"timestamp_policy": 5}, r"timestamp_policy is 5, expected one of refuse, clamp"),
    ],
)
async def test_a_wrong_option_of_a_log_is_named(
    start: Starter, options: dict[str, Any], message: str
) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        with pytest.raises(InvalidArgumentError, match=message):
            await db.create_log("more", **options)
        assert await db.list_logs() == ["orders"]
