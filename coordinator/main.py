"""`python -m coordinator.main --data DIR --port N …`: one coordinator."""

import asyncio
import signal
import sys

import pydantic
import uvloop

from coordinator.config import CoordinatorConfig
from coordinator.server import CoordinatorServer
from logstore.base import collector
from logstore.base.command_line import from_command_line, refusals
from logstore.base.env import Env
from logstore.base.errors import LogstoreError
from logstore.base.logs import configure_logs
from profiler.anomaly import load_adwin


def _config(arguments: list[str]) -> CoordinatorConfig:
    """Settings from flags (one per field) over the environment; lists and objects as JSON."""
    return from_command_line(
        CoordinatorConfig, arguments, prog="logstore coordinator", description=__doc__
    )


async def _serve(config: CoordinatorConfig) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = CoordinatorServer(config, Env())
    address = await server.start()
    collector.settle()
    print(f"ready {address}", flush=True)
    await stopped.wait()
    await server.stop()


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; 0 after a clean stop, 2 on bad settings or a failed start."""
    try:
        config = _config(sys.argv[1:] if arguments is None else arguments)
    except pydantic.ValidationError as e:
        for line in refusals(e):
            print(f"error: {line}", file=sys.stderr)
        return 2
    configure_logs("coordinator")
    load_adwin()  # now: the first anomaly would stop the loop for as long
    try:
        uvloop.run(_serve(config))
    except LogstoreError as e:
        print(f"error: {e.message}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
