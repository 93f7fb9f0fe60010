"""Command lines as a stranger types them, and what they print."""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any


async def command(address: str, *arguments: str) -> str:
    """Standard output of `logstore ARGUMENTS`, asked of the coordinator at `address`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coordinator.cli.main", *arguments, "--address", address,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def until(
    address: str, *arguments: str, holds: Callable[[Any], bool], within_s: float = 20.0
) -> Any:
    """The command's JSON as soon as it is as it should be; asked again until then."""
    found: Any = None
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while loop.time() < deadline:
        found = json.loads(await command(address, *arguments, "--json"))
        if holds(found):
            return found
    raise AssertionError(f"logstore {' '.join(arguments)} still shows {json.dumps(found)[:4000]}")
