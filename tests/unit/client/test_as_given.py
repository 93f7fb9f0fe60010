"""Single appends and their headers: stored as they were at the call, or refused by name."""

import asyncio
import struct

import numpy as np
import pytest

from logstore.base.errors import InvalidArgumentError
from tests.support.clients import Starter, client_of


async def test_headers_are_those_of_the_call_whatever_becomes_of_the_mapping(
    start: Starter,
) -> None:
    """One mapping for many calls at once: each was sent with what the last one had put in."""
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        headers: dict[str, bytes] = {}
        calls = []
        for i in range(20):
            headers["n"] = b"%d" % i
            call = asyncio.create_task(log.append(b"k", b"%d" % i, headers=headers))
            await asyncio.sleep(0)
            calls.append(call)
        headers.clear()
        await asyncio.gather(*calls)
        await log.append(b"k", b"none")
    records = cluster.shards["orders/0"].records
    assert [r.headers.get("n") for r in records[:20]] == [r.value for r in records[:20]]
    assert not records[20].headers


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"h": "v"}, "header 'h' is str, expected bytes"),
        ({"h": bytearray(b"v")}, "header 'h' is bytearray, expected bytes"),
        ({"h": None}, "header 'h' is NoneType, expected bytes"),
        ({b"h": b"v"}, "header name is bytes, expected str"),
        ({1: b"v"}, "header name is int, expected str"),
        ({"\ud800": b"v"}, "header name '\\ud800' cannot be UTF-8"),
        ([("h", b"v")], "headers is list, expected a mapping"),
        ({f"{i}": b"" for i in range(33)}, "headers is 33 headers, the limit is 32"),
        ({"é" * 129: b""}, "header name is 258 bytes, the limit is 256 bytes"),
        ({"é": bytes(1024 * 1024 - 2)}, "record is 1048577 bytes, the limit is 1048576 bytes"),
    ],
    ids=lambda v: "" if isinstance(v, (dict, list)) else v[:24],
)
async def test_headers_that_cannot_be_stored_as_given_are_refused(
    start: Starter, headers: object, why: str
) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        with pytest.raises(InvalidArgumentError) as caught:
            await log.append(b"k", b"", headers=headers)  # type: ignore[arg-type]
        assert why in caught.value.message
    assert not cluster.instances["a"].messages


@pytest.mark.parametrize(
    ("key", "value", "timestamp", "why"),
    [
        ("k", b"", None, "key is str"),
        (bytearray(b"k"), b"", None, "key is bytearray"),
        (memoryview(b"k"), b"", None, "key is memoryview"),
        (np.bytes_(b"k"), b"", None, "key is bytes_"),
        (None, b"", None, "key is NoneType"),
        (b"k", "v", None, "value is str"),
        (b"k", None, None, "value is NoneType"),
        (b"k", np.void(b"v"), None, "value is void"),
        (b"k", b"", 1.0, "timestamp is 1.0"),
        (b"k", b"", float("nan"), "timestamp is nan"),
        (b"k", b"", True, "timestamp is True"),
        (b"k", b"", 2**63, "timestamp is 9223372036854775808"),
        (b"k", b"", np.datetime64("NaT"), "timestamp is np.datetime64('NaT'"),
        (b"k", b"", np.int64(5), "timestamp is np.int64(5)"),
    ],
)
async def test_single_records_that_cannot_be_stored_as_given_are_refused(
    start: Starter, key: object, value: object, timestamp: object, why: str
) -> None:
    cluster = await start()
    async with client_of(cluster) as db:
        log = await db.log("orders")
        with pytest.raises(InvalidArgumentError) as caught:
            await log.append(key, value, timestamp=timestamp)  # type: ignore[arg-type]
        assert why in caught.value.message
    assert not cluster.instances["a"].messages


async def test_the_issues_own_numpy_keys_are_stored_as_given(start: Starter) -> None:
    cluster = await start()
    keys = [struct.pack(">Q", i) for i in (1, 2, 3)]
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append_many(np.array(keys), keys)
        keys[1] = struct.pack(">Q", 256)
        with pytest.raises(InvalidArgumentError, match="keys in row 1 ends in a zero byte"):
            await log.append_many(np.array(keys), keys)
        await log.append_many(np.array(keys).view("V8"), keys)
    records = cluster.shards["orders/0"].records
    assert [r.key for r in records] == [struct.pack(">Q", i) for i in (1, 2, 3, 1, 256, 3)]
    assert [r.value for r in records] == [r.key for r in records]
