"""R1.4: both sides take the writes, are compared, and reads shift step by step."""

from pathlib import Path

from logstore.base.background import alongside
from tests.process.rows.moving import working
from tests.support.rows import record


async def test_r1_4_both_sides_take_the_writes_and_reads_shift_step_by_step(
    tmp_path: Path,
) -> None:
    async with working(tmp_path) as work:
        async with alongside(work.load()):
            lines = await work.move()
        ended = lines[-1]
        assert await work.primary() == work.target
        stored = await work.stored()  # the last append may be cut off before its ack
        assert stored[: len(work.acked)] == work.acked
        assert len(stored) <= len(work.acked) + 1
    shares = [line["p"] for line in lines if line["state"] == "ramping"]
    assert shares == sorted(shares)
    assert len({p for p in shares if 0 < p < 1}) >= 3
    assert ended["phase_s"]["shadowing"] >= 0.3
    assert ended["hash_equal"] is True
    assert ended["hash"]["source_chain"] == ended["hash"]["target_chain"]
    during = ended["windows"]["during"]
    assert during["calls"] > 0
    assert during["failed"] == 0
    record(
        "R1.4",
        command="logstore move SHARD INSTANCE --watch",
        figure=f"{len(set(shares))} shares seen from {shares[0]:g} to {max(shares):g}; "
        f"{during['calls']} calls meanwhile, 0 failed; chains equal",
    )
