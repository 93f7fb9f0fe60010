"""R5.10: a move is taken back before and after its cutover."""

from pathlib import Path

from logstore.base.background import alongside
from tests.process.rows.cluster_command import told
from tests.process.rows.moving import working
from tests.support.rows import record


async def test_r5_10_a_rollback_at_any_stage_loses_nothing(tmp_path: Path) -> None:
    states = ("shadowing", "ramping", "soaking")
    slow = ("--option", "shadow_s=2", "--option", "ramp_interval_s=0.5", "--option", "soak_s=20")
    quick = ("--option", "shadow_s=0.1", "--option", "ramp_step=0.5", "--option", "soak_s=20")
    async with working(tmp_path) as work:
        address = work.cluster.address
        async with alongside(work.load()):
            for number, state in enumerate(states, start=1):
                options = quick if state == "soaking" else slow
                await told(address, "move", "orders/0", work.target, *options)
                await work.reaches(f"m{number}", state)
                led = await work.primary()
                assert led == (work.target if state == "soaking" else work.source)
                await told(address, "rollback", f"m{number}", "--cause", f"tried in {state}")
                await work.reaches(f"m{number}", "rolled-back")
                assert await work.primary() == work.source
        assert await work.stored() == work.acked
        ended = [await work.of(f"m{n}") for n in range(1, len(states) + 1)]
    assert [m["cause"] for m in ended] == [f"tried in {state}" for state in states]
    assert all(m["bytes_copied"] > 0 for m in ended)
    record(
        "R5.10",
        command="logstore rollback ID",
        figure=f"taken back in {', '.join(states)}: {len(work.acked)} acked appends, all there "
        "in order",
    )
