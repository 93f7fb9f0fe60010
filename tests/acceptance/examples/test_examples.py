"""Each program in examples/ runs as it stands, those that need a cluster against a real one."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from coordinator.local.cluster import local_cluster

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
LINES_MAX = 50

SAID = {
    "append_and_read.py": (
        "at offset 0",
        "user-1: 12 apples\nuser-1: 7 pears\nuser-1: 3 plums\n",
        "refused: version_conflict",
    ),
    "tail.py": (
        "sensor-0: 7 records, the last is 'reading 18'",
        "sensor-1: 7 records, the last is 'reading 19'",
        "sensor-2: 6 records, the last is 'reading 17'",
    ),
    "sync_client.py": (
        "records of each thread: [25, 25, 25, 25]",
        "example-audit/0 on instance-1: 50 records",
        "example-audit/1 on instance-1: 50 records",
    ),
    "arrow_in_and_out.py": (
        "appended: 10000 rows to example-measurements",
        "scanned: 1000 rows of 10 devices",
        "device-042 begins with 1764, 20164, 58564",
    ),
}
"""What a program of a cluster prints, in this order."""

SAID_ALONE = {
    "profiler_alone.py": (
        "user-7: 50%",
        "the key that halves the load: user-7",
        "tomorrow at 12:00: ",
        "P(more than 250 then) = 0.9",
    ),
    "planner_alone.py": (
        "move orders/1: a to b",
        "- move orders/1: a is forecast to cross it in 7200 s",
        "- [4] orders/0 stays on a",
        "- [1] b keeps its shards",
    ),
}
"""What a program that needs no cluster prints, in this order."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with local_cluster(1, data=tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster.address


async def run(example: str, *arguments: str) -> str:
    """What the program prints, once it ended well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / example),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


def in_order(output: str, wanted: tuple[str, ...]) -> bool:
    at = 0
    for text in wanted:
        at = output.find(text, at)
        if at < 0:
            return False
    return True


@pytest.mark.process
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("example", SAID)
async def test_it_does_what_it_says_on_a_cluster_and_does_it_again(
    example: str, address: str
) -> None:
    for _ in range(2):
        output = await run(example, address)
        assert in_order(output, SAID[example]), output


@pytest.mark.parametrize("example", SAID_ALONE)
async def test_it_does_what_it_says_alone(example: str) -> None:
    output = await run(example)
    assert in_order(output, SAID_ALONE[example]), output


def test_each_example_is_run_and_short_and_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    programs = sorted(EXAMPLES.glob("*.py"))
    assert {path.name for path in programs} == {*SAID, *SAID_ALONE}
    for path in programs:
        assert len(path.read_text().splitlines()) <= LINES_MAX, path.name
        assert f"(examples/{path.name})" in readme, path.name
