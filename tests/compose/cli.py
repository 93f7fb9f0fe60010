"""The `logstore` command on the host, as a person types it; JSON out."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

LOGSTORE = str(Path(sys.executable).with_name("logstore"))
LIMIT_S = 120.0


async def start(addresses: str, *arguments: str) -> asyncio.subprocess.Process:
    """The running command, its standard output a pipe."""
    return await asyncio.create_subprocess_exec(
        LOGSTORE, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LOGSTORE_ADDRESS": addresses},
    )  # fmt: skip


async def logstore(addresses: str, *arguments: str, limit_s: float = LIMIT_S) -> Any:
    """Its answer: the last JSON value that it printed (`--json` is added)."""
    process = await start(addresses, *arguments, "--json")
    try:
        async with asyncio.timeout(limit_s):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"logstore {' '.join(arguments)}: not done in {limit_s:g} s") from None
    assert process.returncode == 0, (arguments, out.decode()[-500:], err.decode()[-500:])
    text = out.decode().strip()
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        decoder, found, at = json.JSONDecoder(), None, 0
        while at < len(text):
            found, end = decoder.raw_decode(text, at)
            at = end + len(text[end:]) - len(text[end:].lstrip())
        return found
