"""Docker and docker-compose as commands; nothing here knows of the cluster."""

import asyncio
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMAND_LIMIT_S = 120.0


class CommandError(AssertionError):
    """A command failed; says which, and its last lines."""


def command(
    *arguments: str, environment: Mapping[str, str] | None = None, limit_s: float = COMMAND_LIMIT_S
) -> str:
    """Its standard output."""
    try:
        done = subprocess.run(
            arguments, capture_output=True, text=True, timeout=limit_s, check=False, cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except subprocess.TimeoutExpired as e:
        raise CommandError(f"{' '.join(arguments)}: not done after {limit_s:g} s") from e
    if done.returncode:
        answer = (done.stdout + done.stderr)[-2_000:]
        raise CommandError(f"{' '.join(arguments)}: status {done.returncode}\n{answer}")
    return done.stdout


class Compose:
    """One project of docker-compose.yml. `compose`: the command's words."""

    def __init__(
        self, compose: list[str], project: str, environment: Mapping[str, str],
        files: tuple[str, ...] = ("docker-compose.yml",),
    ) -> None:  # fmt: skip
        named = [word for name in files for word in ("-f", name)]
        self._words = [*compose, "-p", project, *named]
        self._environment = dict(environment)
        self.project = project
        self._ids: dict[str, str] = {}

    def call(self, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> str:
        return command(
            *self._words, *arguments, environment=self._environment, limit_s=limit_s
        )  # fmt: skip

    async def run(self, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> str:
        return await asyncio.to_thread(self.call, *arguments, limit_s=limit_s)

    async def docker(self, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> str:
        return await asyncio.to_thread(
            command, "docker", *arguments, environment=self._environment, limit_s=limit_s
        )

    async def container(self, service: str) -> str:
        """The id of a service's container."""
        if service not in self._ids:
            found = await self.docker(
                "ps", "-aq", "--no-trunc",
                "--filter", f"label=com.docker.compose.project={self.project}",
                "--filter", f"label=com.docker.compose.service={service}",
            )  # fmt: skip
            ids = found.split()
            if len(ids) != 1:
                raise CommandError(f"{service} has {len(ids)} containers")
            self._ids[service] = ids[0]
        return self._ids[service]

    async def inspect(self, service: str) -> dict[str, Any]:
        found = json.loads(await self.docker("inspect", await self.container(service)))
        return dict(found[0])

    def forget(self) -> None:
        """Containers were made again."""
        self._ids.clear()
