"""`python -m logstore.node.main --instance ID --data DIR --metadata HOST:PORT …`: one instance."""

import asyncio
import signal
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

import pydantic
import structlog
import uvloop

from logstore.base import collector
from logstore.base.background import first_of
from logstore.base.command_line import from_command_line, refusals
from logstore.base.env import Env
from logstore.base.errors import LogstoreError
from logstore.base.logs import configure_logs
from logstore.node.config import NodeConfig
from logstore.node.server import STATUS_RESTART, NodeServer, check_before_open

SWITCH_INTERVAL_S = 0.0005
"""The loop waits no longer than this for a thread (reads, index, verification); Python's own 5 ms
are met several times in one append."""


class _NoPandas(MetaPathFinder):
    """An instance has no use for pandas, but Arrow imports it at the first numpy array it is given:
    a second on the loop in the middle of serving, just when a move's target begins to lead."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ImportError("an instance does not load pandas")


def _config(arguments: list[str]) -> NodeConfig:
    """Settings from flags (one per field of NodeConfig) over the environment."""
    return from_command_line(NodeConfig, arguments, prog="logstore node", description=__doc__)


async def _serve(config: NodeConfig) -> int:
    await check_before_open(config, Env())
    server = NodeServer(config, Env())
    address = await server.start()
    collector.settle()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    print(f"ready {address}", flush=True)
    ending, _ = await first_of(server.ended(), stopped.wait())
    if ending is not None:
        structlog.get_logger(__name__).error("stopping", why=ending.why, status=ending.status)
    await server.stop()
    if ending is None:
        return 0
    if ending.status != STATUS_RESTART:
        print(f"error: {ending.why}", file=sys.stderr)
    return ending.status


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; 0 after a clean stop, 2 on bad settings or a start that failed
    or was refused, else a status of `logstore.node.server`."""
    try:
        config = _config(sys.argv[1:] if arguments is None else arguments)
    except pydantic.ValidationError as e:
        for line in refusals(e):
            print(f"error: {line}", file=sys.stderr)
        return 2
    Path(config.data).mkdir(parents=True, exist_ok=True)
    configure_logs(config.instance)
    sys.meta_path.insert(0, _NoPandas())
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        return uvloop.run(_serve(config))
    except LogstoreError as e:
        print(f"error: {e.message}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
