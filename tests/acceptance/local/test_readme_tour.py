"""README's quick tour, as typed, while a loader runs: no command and no client call fails."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

import logstore
from coordinator.local.checker import check_log
from coordinator.local.journal import Journal

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent


def tour() -> list[str]:
    """The commands of the block marked `tour` in the README."""
    block = re.search(r"<!-- tour -->\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block is not None
    return [line.split("  #")[0].strip() for line in block.group(1).splitlines() if line.strip()]


async def shell(command: str, address: str) -> str:
    environment = os.environ | {
        "LOGSTORE_ADDRESS": address,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    process = await asyncio.create_subprocess_shell(
        command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    async with asyncio.timeout(90):
        output, _ = await process.communicate()
    assert process.returncode == 0, f"{command}\n{output.decode()}"
    return output.decode()


class Load:
    """Appends and reads beside the tour."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.stopped = asyncio.Event()

    async def run(self, address: str) -> None:
        async with logstore.connect(address) as db:
            log = await db.log("orders")
            i = 0
            while not self.stopped.is_set():
                key, value = b"user-%d" % (10 + i % 80), b"%d" % i
                n = self._journal.number(key)
                self._journal.acked(key, value, n, await log.append(key, value))
                seen = [r.value async for r in log.read(key=key)]
                assert seen[-1] == value
                i += 1


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_quick_tour_works_as_typed(tmp_path: Path) -> None:
    up = await asyncio.create_subprocess_exec(
        str(BIN / "logstore"), "up", "--instances", "3", "--data", str(tmp_path / "data"),
        "--port", "0", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert up.stdout is not None
        async with asyncio.timeout(60):
            ready = (await up.stdout.readline()).decode().split()
        assert ready[0] == "ready"
        address = ready[1]
        commands = tour()
        answer = {commands[0]: await shell(commands[0], address)}
        with Journal(tmp_path / "journal", "orders") as journal:
            load = Load(journal)
            running = asyncio.create_task(load.run(address))
            for command in commands[1:]:
                answer[command] = await shell(command, address)
            load.stopped.set()
            await running
            assert journal.acked_count > 100
        assert '{"total": 12}' in answer["logstore read orders --key user-1"]
        watched = [text for command, text in answer.items() if command.endswith("--watch")]
        assert "completed" in watched[0]
        assert "rolled-back" in watched[1]
        verdict = await check_log(address, [tmp_path / "journal"])
        assert verdict.ok, verdict
    finally:
        if up.returncode is None:
            up.terminate()
        async with asyncio.timeout(30):
            assert await up.wait() == 0
