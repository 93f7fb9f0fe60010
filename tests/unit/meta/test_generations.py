"""Generations: a point of history distinguishes a store from all others and its own copies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore.base.env import Env
from logstore.base.errors import WrongClusterError
from logstore.meta.generations import (
    GENERATIONS_MAX,
    Lineage,
    Point,
    check_expected,
    check_holds,
    ensure_generation,
    open_generation,
    read_lineage,
)
from logstore.meta.memory import MemoryMetadataStore, Tables
from logstore.meta.port import Put
from logstore.meta.records import GENERATIONS, decode_generation


async def written(store: MemoryMetadataStore, times: int) -> int:
    """Write so many revisions; returns the newest."""
    revision = 0
    for n in range(times):
        revision = (await store.txn([], [Put("/x", b"%d" % n)])).revision
    return revision


def copy_of(store: MemoryMetadataStore) -> MemoryMetadataStore:
    """What a copy of the store's folder holds."""
    tables = store._tables
    return MemoryMetadataStore(Tables(list(tables.items.values()), tables.revision))


async def causes(store: MemoryMetadataStore) -> list[str]:
    """Why each generation began, oldest first."""
    items = sorted((await store.range(GENERATIONS)).items, key=lambda item: item.revision)
    return [decode_generation(item.value).cause for item in items]


async def lineage_of(store: MemoryMetadataStore) -> Lineage:
    found = await read_lineage(store)
    assert found is not None
    return found


async def test_a_store_holds_what_was_acted_on_in_each_of_its_generations() -> None:
    store = MemoryMetadataStore()
    points = []
    for by in ("a", "b", "c"):
        lineage = await open_generation(store, Env(), by)
        points.append(Point(lineage.newest, await written(store, 3)))
    lineage = await lineage_of(store)
    assert all(lineage.holds(point) for point in points)
    assert lineage.holds(Point())
    assert await causes(store) == ["created", "opened", "opened"]


@given(before=st.integers(0, 5), after=st.integers(1, 5), overtaken=st.integers(0, 20))
async def test_a_copy_that_was_put_back_never_holds_what_came_after_it(
    before: int, after: int, overtaken: int
) -> None:
    """However far the copy is written once a coordinator began with it (P11)."""
    store = MemoryMetadataStore()
    lineage = await open_generation(store, Env(), "a")
    await written(store, before)
    older = copy_of(store)
    point = Point(lineage.newest, await written(store, after))
    assert not (await lineage_of(older)).holds(point)
    await open_generation(older, Env(), "b")
    await written(older, overtaken)
    found = await lineage_of(older)
    assert not found.holds(point)
    with pytest.raises(WrongClusterError, match="older copy"):
        check_holds(found, point, lineage.cluster, "instance i1")
    assert (await lineage_of(store)).holds(point)


async def test_an_empty_store_is_another_cluster() -> None:
    first = await open_generation(MemoryMetadataStore(), Env(), "a")
    other = await open_generation(MemoryMetadataStore(), Env(), "a")
    assert first.cluster != other.cluster
    with pytest.raises(WrongClusterError, match=first.cluster):
        check_holds(other, Point(), first.cluster, "instance i1")


async def test_fences_of_one_store_hold_in_no_other() -> None:
    """Two stores of the same revisions: only the drawn key distinguishes them."""
    a, b = MemoryMetadataStore(), MemoryMetadataStore()
    fences = (await open_generation(a, Env(), "a")).fences()
    await open_generation(b, Env(), "b")
    assert (await a.txn(fences, [Put("/x", b"1")])).succeeded
    assert not (await b.txn(fences, [Put("/x", b"1")])).succeeded
    older = copy_of(a)
    await open_generation(older, Env(), "c")
    assert not (await older.txn(fences, [Put("/x", b"1")])).succeeded


async def test_a_store_of_before_generations_is_adopted_once() -> None:
    store = MemoryMetadataStore()
    await written(store, 1)
    first = await ensure_generation(store, Env(), "a")
    again = await ensure_generation(store, Env(), "b")
    assert first.cluster == again.cluster
    assert await causes(store) == ["adopted"]


async def test_old_generations_are_forgotten_and_what_remains_still_holds() -> None:
    store = MemoryMetadataStore()
    for _ in range(GENERATIONS_MAX + 3):
        lineage = await open_generation(store, Env(), "a")
    assert len(lineage.began) == GENERATIONS_MAX
    assert lineage.holds(Point(lineage.newest, lineage.revision))


@pytest.mark.parametrize("cluster", ["", "0123456789abcdef"])
async def test_a_coordinator_refuses_what_is_not_expected(cluster: str) -> None:
    store = MemoryMetadataStore()
    await check_expected(store, None)
    if cluster:
        await open_generation(store, Env(), "a")
    with pytest.raises(WrongClusterError, match="is expected"):
        await check_expected(store, "fedcba9876543210")
