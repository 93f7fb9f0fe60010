"""R3.4: a move goes through its stages and is confirmed with its time and the comparison."""

from pathlib import Path

from logstore.base.background import alongside
from tests.process.rows.cluster_command import told, told_json
from tests.process.rows.moving import QUICK, working
from tests.support.rows import record

STAGES = ["planned", "preparing", "snapshot", "catching-up", "verifying", "shadowing", "ramping",
          "cutover", "soaking", "completed"]  # fmt: skip


async def test_r3_4_a_move_is_confirmed_with_its_time_and_the_comparison(tmp_path: Path) -> None:
    async with working(tmp_path) as work:
        address = work.cluster.address
        before = await told(address, "move", "orders/0", work.target, *QUICK, "--dry-run")
        async with alongside(work.load()):
            said = await told(address, "move", "orders/0", work.target, *QUICK, "--watch")
        story = await told(address, "migrations", "m1", "--story")
        back = await told_json(address, "move", "orders/0", work.source, *QUICK, "--dry-run")
        found = await work.of("m1")
    assert [p["state"] for p in found["phases"]] == STAGES
    confirmed = said.splitlines()[-1]
    assert confirmed.startswith(f"migration m1 completed in {found['duration_s']:g} s: copied ")
    assert "chains equal: True, blackout " in confirmed
    assert "hash chains: equal at offset" in story
    for when in ("before", "during", "after"):
        assert f"\n{when}: " in story
        assert found["windows"][when]["calls"] > 0
    assert found["bytes_copied"] == found["bytes"] > 0
    assert f"\ncopied: {found['bytes_copied'] / 1e6:.3f} MB at " in story
    assert ", 80 %: " in " ".join(before.split())
    assert back["seconds_low"] < back["seconds"] < back["seconds_high"]
    assert abs(back["seconds"] - found["duration_s"]) < 0.5 * found["duration_s"]
    record(
        "R3.4",
        command="logstore migrations ID --story",
        figure=f"{confirmed.partition(' ')[2].partition(' ')[2]}; the next is expected in "
        f"{back['seconds']:.1f} s",
    )
