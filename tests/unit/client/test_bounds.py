"""Numbers that callers pass in: within their range, or refused with field, value and range."""

import datetime
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import logstore
from logstore.base.errors import InvalidArgumentError
from logstore.client import bounds
from tests.support.clients import Starter, client_of

NO_NUMBERS = [True, False, np.True_, 1.0, 1.5, math.nan, math.inf, "1", b"1", [1], object()]
INTS = st.integers() | st.integers(-(2**70), 2**70) | st.sampled_from([2**63 - 1, 2**63, -(2**63)])


@given(INTS, INTS, INTS)
def test_whole_numbers_are_taken_in_their_range_alone(value: int, one: int, two: int) -> None:
    low, high = min(one, two), max(one, two)
    if low <= value <= high:
        assert bounds.whole("limit", value, low, high) == value
    else:
        with pytest.raises(InvalidArgumentError, match=r"limit is .*, expected an int from"):
            bounds.whole("limit", value, low, high)


@given(st.floats() | st.integers())
def test_times_to_wait_are_finite_and_above_0(value: float) -> None:
    if 0 < value <= bounds.SECONDS_MAX:
        assert bounds.seconds("timeout_s", value) == value
    else:
        with pytest.raises(InvalidArgumentError, match=r"timeout_s is .* s$"):
            bounds.seconds("timeout_s", value)


@pytest.mark.parametrize("value", [True, "1", None, b"1", [1.0]])
def test_what_is_no_time_is_named(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match="idle_timeout_s is"):
        bounds.seconds("idle_timeout_s", value)
    assert bounds.seconds("timeout_s", 0, zero=True) == 0


def test_numpy_numbers_and_datetimes_are_numbers() -> None:
    assert bounds.whole("offset", np.int64(7)) == 7
    assert bounds.whole("offset", np.uint64(7)) == 7
    assert bounds.time_us("since", np.int64(-7)) == -7
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=2)
    assert bounds.time_us("since", moment) == 2_000_000
    with pytest.raises(InvalidArgumentError, match="time zone"):
        bounds.time_us("since", datetime.datetime(2020, 1, 1))


OUTSIDE: list[tuple[dict[str, Any], str]] = [
    ({"since": 2**63}, "since is 9223372036854775808"),
    ({"since": -(2**63) - 1}, "since is -9223372036854775809"),
    ({"since": 10**400}, "since is 1000.*[.][.][.]"),
    ({"limit": 0}, "limit is 0"),
    ({"limit": -1}, "limit is -1"),
    ({"limit": 2**63}, "limit is 9223372036854775808"),
    ({"shard": "orders/0", "offset": -1}, "offset is -1"),
    ({"shard": "orders/0", "offset": 2**63}, "offset is 9223372036854775808"),
    ({"shard": "orders/0", "offset": 2**64}, "offset is 18446744073709551616"),
    ({"shard": 5}, "shard is 5"),
    ({"shard": ""}, "shard has 0 bytes"),
    ({"shard": "x" * 2**20}, "shard has 1048576 bytes"),
    *(({"since": value}, "since is") for value in NO_NUMBERS),
    *(({"limit": value}, "limit is") for value in NO_NUMBERS),
    *(({"shard": "orders/0", "offset": value}, "offset is") for value in NO_NUMBERS),
]


@pytest.mark.parametrize("shards", [1, 2, 3])
async def test_reads_and_tails_refuse_what_is_outside(start: Starter, shards: int) -> None:
    cluster = await start(("a",), hash_shards=shards)
    async with client_of(cluster) as db:
        log = await db.log("orders")
        for options, says in OUTSIDE:
            for call in (log.read, log.tail, log.scan):
                with pytest.raises(InvalidArgumentError, match=says):
                    call(**options)
        for value in (0, -1, math.nan, math.inf, "1", True):
            with pytest.raises(InvalidArgumentError, match="idle_timeout_s is"):
                log.tail(idle_timeout_s=value)  # type: ignore[arg-type]
            if value != 0:
                with pytest.raises(InvalidArgumentError, match="timeout_s is"):
                    await log.tail().poll(value)  # type: ignore[arg-type]
        for count in (0, -1, 2**63, *NO_NUMBERS):
            with pytest.raises(InvalidArgumentError, match="shards is"):
                await db.create_log("more", shards=count)  # type: ignore[arg-type]
    assert not cluster.instances["a"].reads


@pytest.mark.parametrize("edge", [-(2**63), 2**63 - 1, np.int64(0)])
async def test_the_edges_of_the_range_are_in_it(start: Starter, edge: Any) -> None:
    cluster = await start(("a",), hash_shards=2)
    async with client_of(cluster) as db:
        log = await db.log("orders")
        await log.append(b"k", b"v", timestamp=5)
        found = [r async for r in log.read(since=edge, limit=2**63 - 1)]
    assert len(found) == (edge <= 5)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf, True, "9", None, 1e300])
def test_connect_refuses_a_timeout_that_is_none(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="timeout_s is"):
        logstore.connect("127.0.0.1:1", timeout_s=value)


@pytest.mark.parametrize("value", ["", "x" * 1_000_000, 5, None, b"x"])
def test_connect_refuses_a_group_that_is_none(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="client_group") as e:
        logstore.connect("127.0.0.1:1", client_group=value)
    assert len(e.value.message) < 300


def test_an_address_that_is_given_twice_is_one() -> None:
    db = logstore.connect("127.0.0.1:1, 127.0.0.1:1,127.0.0.1:2")
    assert db._directory.addresses == ["127.0.0.1:1", "127.0.0.1:2"]
    with pytest.raises(InvalidArgumentError, match="address is 5"):
        logstore.connect([5])  # type: ignore[list-item]
