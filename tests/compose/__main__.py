"""`python -m tests.compose test|alerts|up|down ARGUMENT…`: the whole way from an empty machine.

An engine (scripts/docker-engine), base images (scripts/docker-bases), the images of
docker-compose.yml, then the suite; and whatever became of it, containers, volumes and networks are
removed and an engine that was started here is ended. Logs and histories of the last run stay in
.cache/compose. `up` leaves the cluster running, for a person; `down` ends it.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.services.paths import cache_root
from tests.compose.docker import ROOT, CommandError, Compose, command

RUN = "LOGSTORE_COMPOSE_RUN"
PROJECT = "logstore-test"
BUILD_LIMIT_S = 1_200.0
PYTEST = ["-m", "pytest", "-p", "no:cacheprovider", "-o", "timeout=300", "-q", "-s", "--maxfail=3",
          "-o", "asyncio_default_fixture_loop_scope=session",
          "-o", "asyncio_default_test_loop_scope=session"]  # fmt: skip
SUITES = {"test": "compose and not alerts", "alerts": "alerts"}
"""Markers that choose the tests."""
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
SMALL_DISK = cache_root() / "compose" / "small-disk"
SMALL_DISK_BYTES = 384 * 1024 * 1024
SETTINGS = {
    # plans are made and shown, but nothing moves that a scenario did not ask for
    "LOGSTORE_AUTOPILOT": "forecast-only",
    "LOGSTORE_PLANNING_PERIOD_S": "10",
}


def report(text: str) -> None:
    print(f"compose: {text}", flush=True)


@contextlib.contextmanager
def engine(*, stay: bool) -> Iterator[dict[str, str]]:
    """The environment of docker commands; ends an engine of ours unless it must stay."""
    host = command("scripts/docker-engine", "up", limit_s=BUILD_LIMIT_S).split()[-1]
    try:
        yield {"DOCKER_HOST": host}
    finally:
        if not stay:
            command("scripts/docker-engine", "down")


def bases(environment: Mapping[str, str]) -> dict[str, str]:
    """Names of base images made here, empty where the public ones can be had."""
    python = {"PYTHON": sys.executable}
    lines = command("scripts/docker-bases", environment={**environment, **python},
                    limit_s=BUILD_LIMIT_S)  # fmt: skip
    return dict(line.split("=", 1) for line in lines.splitlines())


def compose_command() -> list[str]:
    return os.environ.get("LOGSTORE_COMPOSE", "docker-compose").split()


def prepare(environment: dict[str, str], files: tuple[str, ...]) -> Compose:
    """Images built, nothing of an earlier run left."""
    began_s = time.monotonic()
    environment |= bases(environment)
    based_s = time.monotonic()
    project = Compose(compose_command(), PROJECT, environment, files)
    project.call("build", limit_s=BUILD_LIMIT_S)
    sweep(project)
    size = command("docker", "image", "inspect", "-f", "{{.Size}}", "logstore",
                   environment=environment)  # fmt: skip
    report(f"base images {based_s - began_s:.0f} s, images {time.monotonic() - based_s:.0f} s; "
         f"the image of this project is {int(size) / 1e6:.0f} MB")  # fmt: skip
    return project


def sweep(project: Compose) -> None:
    project.call("--profile", "grow", "down", "-v", "--remove-orphans", "-t", "5")


def rules_for_the_test() -> str:
    """The shipped rules; a move counts as stuck after ten seconds."""
    return ALERTS.read_text().replace("> 600", "> 10")


@contextlib.contextmanager
def alert_settings() -> Iterator[dict[str, str]]:
    """A small disk for i5, a small capacity for all, and the rules with one limit changed."""
    SMALL_DISK.mkdir(parents=True, exist_ok=True)
    rules = SMALL_DISK.with_name("alerts.yml")
    rules.write_text(rules_for_the_test())
    size = f"size={SMALL_DISK_BYTES},uid=10001,gid=10001,mode=755"
    command("mount", "-t", "tmpfs", "-o", size, "none", str(SMALL_DISK))
    try:
        yield {
            "LOGSTORE_TEST_DISK": str(SMALL_DISK),
            "LOGSTORE_TEST_RULES": str(rules),
            "LOGSTORE_OPS_PER_S_MAX": "3000",
        }
    finally:
        command("umount", "--lazy", str(SMALL_DISK))


def keep_logs(project: Compose, folder: Path) -> None:
    """What every container printed, and their states."""
    folder.mkdir(parents=True, exist_ok=True)
    told_ = project.call("--profile", "grow", "ps", "-a")
    (folder / "ps").write_text(told_)
    for service in project.call("--profile", "grow", "config", "--services").split():
        with contextlib.suppress(CommandError):
            (folder / f"{service}.log").write_text(
                project.call("logs", "--no-color", "-t", service)
            )


def run_suite(suite: str, arguments: list[str], folder: Path) -> int:
    files: tuple[str, ...] = ("docker-compose.yml",)
    with contextlib.ExitStack() as more:
        settings = dict(SETTINGS)
        if suite == "alerts":
            files = (*files, "tests/compose/alerts.override.yml")
            settings |= more.enter_context(alert_settings())
        return run_in(suite, arguments, folder, files, settings)


def run_in(
    suite: str, arguments: list[str], folder: Path, files: tuple[str, ...],
    settings: Mapping[str, str],
) -> int:  # fmt: skip
    with engine(stay="DOCKER_HOST" in os.environ) as environment:
        environment |= settings
        project = prepare(environment, files)
        about = {
            "compose": compose_command(), "project": PROJECT, "files": files,
            "environment": environment, "folder": str(folder),
        }  # fmt: skip
        words = [sys.executable, *PYTEST, "-m", SUITES[suite], "tests/compose"]
        try:
            return subprocess.run(
                [*words, *arguments], check=False, cwd=ROOT,
                env={**os.environ, **environment, RUN: json.dumps(about)},
            ).returncode  # fmt: skip
        finally:
            keep_logs(project, folder / "logs")
            sweep(project)


def main(arguments: list[str]) -> int:
    """2 with a clear message where it cannot run: it never passes by not running."""
    action = arguments[0] if arguments else ""
    if action not in (*SUITES, "up", "down"):
        print("error: expected test, alerts, up or down as the first argument", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up then too
    folder = cache_root() / "compose" / action
    folder.mkdir(parents=True, exist_ok=True)
    with (cache_root() / "compose" / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("error: another run of the compose suite is at work", file=sys.stderr)
            return 2
        try:
            if action in SUITES:
                shutil.rmtree(folder)
                return run_suite(action, arguments[1:], folder)
            with engine(stay=action == "up") as environment:
                if action == "down":
                    sweep(Compose(compose_command(), PROJECT, environment))
                else:
                    project = prepare(environment, ("docker-compose.yml",))
                    project.call("up", "-d", "--no-build")
                    report(f"up; DOCKER_HOST={environment['DOCKER_HOST']}")
            return 0
        except CommandError as e:
            print(f"error: {e}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
