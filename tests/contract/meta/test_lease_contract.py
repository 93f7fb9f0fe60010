"""Leases and elections over every MetadataStore."""

import asyncio
from collections.abc import Sequence

import pytest

from logstore.base.env import Env
from logstore.base.errors import (
    FencedError,
    InvalidArgumentError,
    LeaseLostError,
    UnavailableError,
)
from logstore.meta.election import Election, FencedStore
from logstore.meta.port import Compare, Delete, Lease, MetadataStore, Operation, Put, TxnResult

KEY = "/cells/a/leader"
SHORT_S = 0.3
"""Etcd makes 2 s of it."""


async def test_a_lease_lasts_at_least_as_long_as_asked(store: MetadataStore) -> None:
    lease = await store.lease_grant(2.5)
    assert lease.ttl_s >= 2.5
    again = await store.lease_keep_alive(lease.id)
    assert again == lease


@pytest.mark.parametrize("ttl_s", [0.0, 0.05, 3601.0, float("nan")])
async def test_a_length_out_of_bounds_is_refused(store: MetadataStore, ttl_s: float) -> None:
    with pytest.raises(InvalidArgumentError, match=r"lease\.ttl_s"):
        await store.lease_grant(ttl_s)


async def test_revoking_deletes_its_keys_in_one_revision(store: MetadataStore) -> None:
    lease = await store.lease_grant(60)
    put = await store.txn([], [Put("/a", b"", lease.id), Put("/b", b"", lease.id), Put("/c", b"")])
    await store.lease_revoke(lease.id)
    gone = await anext(store.watch("/", put.revision))
    assert {(e.key, e.value, e.revision) for e in gone} == {
        ("/a", None, put.revision + 1),
        ("/b", None, put.revision + 1),
    }
    assert [item.key for item in (await store.range("/")).items] == ["/c"]
    await store.lease_revoke(lease.id)  # idempotent


async def test_a_lease_ends_by_itself_with_its_keys(store: MetadataStore) -> None:
    lease = await store.lease_grant(SHORT_S)
    put = await store.txn([], [Put("/a", b"1", lease.id)])
    (event,) = await asyncio.wait_for(anext(store.watch("/a", put.revision)), 10)
    assert event.value is None
    assert await store.get("/a") is None
    with pytest.raises(LeaseLostError):
        await store.lease_keep_alive(lease.id)


async def test_a_kept_lease_outlives_its_length(store: MetadataStore) -> None:
    lease = await store.lease_grant(SHORT_S)
    await store.txn([], [Put("/a", b"1", lease.id)])
    clock = asyncio.get_running_loop()
    end_s = clock.time() + 1.6 * lease.ttl_s
    while clock.time() < end_s:
        await store.lease_keep_alive(lease.id)
        await asyncio.sleep(lease.ttl_s / 10)
    assert await store.get("/a") is not None


async def test_a_put_under_an_ended_lease_writes_nothing(store: MetadataStore) -> None:
    lease = await store.lease_grant(60)
    await store.lease_revoke(lease.id)
    with pytest.raises(LeaseLostError):
        await store.txn([], [Put("/b", b"1"), Put("/a", b"1", lease.id)])
    assert (await store.range("/")).items == ()
    refused = await store.txn([Compare("/a", 1)], [Put("/a", b"1", lease.id)])
    assert not refused.succeeded  # the compares come first


async def test_a_put_moves_its_key_to_another_lease_or_to_none(store: MetadataStore) -> None:
    first, second = await store.lease_grant(60), await store.lease_grant(60)
    await store.txn([], [Put(key, b"1", first.id) for key in ("/a", "/b", "/c")])
    await store.txn([], [Put("/a", b"2"), Put("/b", b"2", second.id), Delete("/c")])
    await store.txn([], [Put("/c", b"2")])
    await store.lease_revoke(first.id)
    assert [item.key for item in (await store.range("/")).items] == ["/a", "/b", "/c"]
    await store.lease_revoke(second.id)
    assert [item.key for item in (await store.range("/")).items] == ["/a", "/c"]


# ---- elections ---------------------------------------------------------------------------------


async def test_one_of_three_wins_and_resigning_lets_the_next_in(store: MetadataStore) -> None:
    elections = [Election(store, KEY, name, Env(), ttl_s=60) for name in "abc"]
    waiting = {asyncio.create_task(e.campaign()): e for e in elections}
    fences = []
    while waiting:
        done, _ = await asyncio.wait(waiting, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        (winner,) = done
        leadership, election = winner.result(), waiting.pop(winner)
        assert leadership.held()
        record = await election.leader()
        assert record is not None
        found = await store.get(KEY)
        assert found is not None
        assert leadership.fence == Compare(KEY, found.revision)
        fences.append(found.revision)
        await election.resign()
        assert not leadership.held()
        assert leadership.lost.is_set()
    assert fences == sorted(set(fences))
    assert await elections[0].leader() is None


async def test_a_leader_that_was_followed_can_write_nothing(store: MetadataStore) -> None:
    first, second = (Election(store, KEY, name, Env(), ttl_s=60) for name in "ab")
    old = FencedStore(store, (await first.campaign()).fence)
    assert (await old.txn([Compare("/x", 0)], [Put("/x", b"old")])).succeeded
    taken = await old.txn([Compare("/x", 0)], [Put("/x", b"again")])
    assert not taken.succeeded  # a plain conflict, not the fence
    await first.resign()
    with pytest.raises(FencedError):
        await old.txn([], [Put("/x", b"nobody leads")])
    leadership = await second.campaign()
    with pytest.raises(FencedError):
        await old.txn([], [Put("/x", b"another leads")])
    found = await old.get("/x")
    assert found is not None
    assert found.value == b"old"
    new = FencedStore(store, leadership.fence)
    assert (await new.txn([], [Put("/x", b"new")])).succeeded
    await second.resign()


class CutOff:
    """The store as a party sees it that the network has cut off, once `cut` is set."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self.cut = False
        self.lose_answers = 0
        self.get, self.range, self.watch = store.get, store.range, store.watch
        self.lease_grant, self.lease_revoke = store.lease_grant, store.lease_revoke
        self.close = store.close

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        result = await self._store.txn(compares, operations)
        if self.lose_answers:
            self.lose_answers -= 1
            raise UnavailableError("the answer was lost")
        return result

    async def lease_keep_alive(self, lease: int) -> Lease:
        if self.cut:
            raise UnavailableError("cut off")
        return await self._store.lease_keep_alive(lease)


async def test_a_leader_cut_off_knows_it_before_the_next_one_leads(store: MetadataStore) -> None:
    link = CutOff(store)
    first = Election(link, KEY, "a", Env(), ttl_s=SHORT_S)
    second = Election(store, KEY, "b", Env(), ttl_s=SHORT_S)
    old = await first.campaign()
    following = asyncio.create_task(second.campaign())
    link.cut = True
    new = await asyncio.wait_for(following, 10)
    assert not old.held()
    await asyncio.wait_for(old.lost.wait(), 10)
    assert new.fence.revision > old.fence.revision
    await second.resign()


async def test_a_leadership_lasts_beyond_its_lease(store: MetadataStore) -> None:
    election = Election(store, KEY, "a", Env(), ttl_s=SHORT_S)
    leadership = await election.campaign()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(leadership.lost.wait(), 1.6 * leadership.lease.ttl_s)
    leadership.check()
    await election.resign()
    with pytest.raises(FencedError):
        leadership.check()


async def test_a_win_whose_answer_was_lost_is_found(store: MetadataStore) -> None:
    link = CutOff(store)
    link.lose_answers = 1
    election = Election(link, KEY, "a", Env(), ttl_s=60)
    leadership = await asyncio.wait_for(election.campaign(), 10)
    found = await store.get(KEY)
    assert found is not None
    assert leadership.fence.revision == found.revision
    await election.resign()
