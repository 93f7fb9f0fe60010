"""A command line run against a cluster, as a person runs it: in a process of its own."""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from coordinator.answers.plans import PlanAnswer
from coordinator.cli.common import Coordinator
from logstore.proto.coordinator_v1 import coordinator_pb2


async def told(address: str, *arguments: str, status: int = 0) -> str:
    """Standard output of one command; its standard error where it must fail."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coordinator.cli.main", *arguments, "--address", address,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == status, (out + err).decode()
    return (err if status else out).decode()


async def told_json(address: str, *arguments: str) -> Any:
    """What a command prints with `--json`: one value."""
    return json.loads(await told(address, *arguments, "--json"))


async def planned(address: str) -> PlanAnswer:
    """What `plan` shows, for a loop that waits: without the start of a process."""
    async with Coordinator(address) as coordinator:
        request = coordinator_pb2.PlanRequest()
        return await coordinator.ask("Plans", "Plan", request, PlanAnswer)


async def until(
    address: str, *arguments: str, holds: Callable[[Any], bool], within_s: float = 20.0
) -> Any:
    """The command's JSON as soon as it is as it should be; asked again until then."""
    found: Any = None
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while loop.time() < deadline:
        found = await told_json(address, *arguments)
        if holds(found):
            return found
    raise AssertionError(f"logstore {' '.join(arguments)} still shows {json.dumps(found)[:4000]}")
