"""A copy that was trimmed past the offset at which it is to be compared is compared at its base."""

import pytest

from coordinator.migration.facts import Verify
from logstore.base.errors import OutOfRangeError
from logstore.meta.records import Member
from tests.unit.coordinator.model import Cluster, World, chain_of

BASE = 23


class Trimmed(Cluster):
    """Both copies begin at `BASE`."""

    def __init__(self, base: int) -> None:
        super().__init__()
        self.begins = base
        self.differs = False

    async def chain(
        self, member: Member, shard: str, stop: int, *, recompute: bool, timeout_s: float
    ) -> bytes:
        if stop < BASE:
            raise OutOfRangeError(f"stop_offset is {stop}, the copy holds {BASE}..41")
        return chain_of(stop, b"spoilt" if self.differs and recompute else b"")

    async def base(self, member: Member, shard: str) -> int:
        return self.begins


@pytest.mark.parametrize(("base", "compared"), [(BASE, True), (0, False)])
async def test_it_is_compared_where_it_begins(base: int, compared: bool) -> None:
    world = World(cluster=Trimmed(base))
    record = await world.begin()
    effect = Verify(Member("b", 22, 2), Member("a", 11, 1), 20)
    if not compared:  # the copy is short for another reason: the error stands
        with pytest.raises(OutOfRangeError):
            await world.driver._chains(record, effect)
        return
    found = await world.driver._chains(record, effect)
    assert (found.end, found.chain, found.expected) == (BASE, chain_of(BASE), chain_of(BASE))


async def test_a_difference_there_is_looked_for_above_the_trim() -> None:
    cluster = Trimmed(BASE)
    cluster.differs = True
    world = World(cluster=cluster)
    record = await world.begin()
    found = await world.driver._chains(record, Verify(Member("b", 22, 2), Member("a", 11, 1), 20))
    assert found.chain != found.expected
    assert found.where == "an offset in what was trimmed since"
