"""Finds programs, and installs missing ones.

The order is the same for each: PATH, the cache, a package of the distribution (as
root), Docker; else an error that says what to do. `LOGSTORE_NO_INSTALL=1` forbids installing.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from bench.services.base import ServiceError, ServiceProcess, run_to_end
from bench.services.paths import cache_root

SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/go/bin")


def may_install() -> bool:
    return os.environ.get("LOGSTORE_NO_INSTALL", "") in ("", "0")


def on_path(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(SBIN))


@contextlib.contextmanager
def cache_lock(name: str) -> Iterator[Path]:
    """The folder `<cache>/<name>` under an exclusive lock: parallel test runs fetch once."""
    folder = cache_root() / name
    folder.mkdir(parents=True, exist_ok=True)
    with (cache_root() / f"{name.replace('/', '-')}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder


def apt_install(packages: Sequence[str]) -> bool:
    """Install the distribution's packages if we are root and have apt; whether it was done."""
    apt = on_path("apt-get")
    if apt is None or os.geteuid() != 0 or not may_install():
        return False
    environment = {
        "DEBIAN_FRONTEND": "noninteractive",
        # the package's own service must not start: we want a process of ours, on our port
        "RUNLEVEL": "1",
    }
    with cache_lock("apt"):
        what = f"apt-get install {' '.join(packages)}"
        command = [apt, "install", "-y", "-qq", "--no-install-recommends", *packages]
        try:
            run_to_end(command, what=what, environment=environment)
        except ServiceError:
            run_to_end([apt, "update", "-qq"], what="apt-get update", environment=environment)
            run_to_end(command, what=what, environment=environment)
    return True


def program(name: str, *, packages: Sequence[str]) -> str | None:
    """Path of a program: on PATH, else after installing its packages, else None."""
    found = on_path(name)
    if found is None and apt_install(packages):
        found = on_path(name)
    return found


@cache
def docker_works() -> bool:
    docker = on_path("docker")
    if docker is None:
        return False
    try:
        return subprocess.run([docker, "info"], capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def in_docker(member: ServiceProcess, image: str, run_folder: Path) -> None:
    """Make the member run in a container of `image`, on the host's network and in our folder.

    The command and the configuration stay the same, so there is one way of starting things.
    """
    name = f"logstore-{run_folder.name}-{member.folder.name}"
    (member.folder / "container").write_text(name)
    entry, *arguments = member.command
    member.command = [
        "docker", "run", "--rm", "--init", "--name", name, "--network", "host",
        "--user", f"{os.getuid()}:{os.getgid()}",
        "-v", f"{run_folder}:{run_folder}", "-w", str(member.folder),
        "--entrypoint", entry, image, *arguments,
    ]  # fmt: skip


def java() -> str:
    """A Java of 17 or newer, which Kafka 4's broker needs."""
    found = program("java", packages=["openjdk-17-jre-headless"])
    if found is None:
        raise ServiceError(
            "Java 17 or newer is missing: install openjdk-17-jre-headless, or start Docker, or "
            "name a running broker in LOGSTORE_TEST_KAFKA=host:port"
        )
    printed = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)
    match = re.search(r'version "(\d+)', printed.stderr + printed.stdout)
    if match is None or int(match.group(1)) < 17:
        raise ServiceError(f"{found} is not Java 17 or newer: {printed.stderr.strip()[:100]}")
    return found
