"""`python -m tests.cluster test|soak ARGUMENT…`: into namespaces of our own, then the real run.

Everything the run makes lives in new network, mount and process namespaces whose first process is
the run itself: kill -9 of any of them ends all processes, links, rules and mounts. What is left is
one folder of data and logs, which the next run empties.
"""

import fcntl
import os
import sys
from pathlib import Path
from subprocess import run

from bench.services.base import ServiceError
from bench.services.install import on_path, program
from bench.services.paths import cache_root
from tests.support.checkers import porcupine

INSIDE = "LOGSTORE_CLUSTER_RUN"
"""Set inside the namespaces: the folder of this run."""

PROGRAMS = {
    "ip": "iproute2",
    "iptables": "iptables",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "etcd": "etcd-server",
}
NAMESPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
COMMANDS = {
    "test": ["-m", "pytest", "tests/cluster", "-m", "cluster", "-p", "no:cacheprovider",
             "-o", "asyncio_default_fixture_loop_scope=session", "-o",
             "asyncio_default_test_loop_scope=session", "-o", "timeout=300", "--maxfail=3", "-q",
             "-s"],
    "soak": ["-m", "tests.cluster.soak"],
}  # fmt: skip


def refuse(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2


def main(arguments: list[str]) -> int:
    """2 with a clear message where it cannot run: it never passes by not running."""
    if not arguments or arguments[0] not in COMMANDS:
        return refuse(f"expected one of {', '.join(COMMANDS)} as the first argument")
    if not sys.platform.startswith("linux"):
        return refuse("the cluster suite needs Linux: network namespaces and iptables")
    if os.geteuid() != 0:
        return refuse("the cluster suite makes network namespaces: run it as root")
    for name, package in PROGRAMS.items():
        try:
            if program(name, packages=[package]) is None:
                return refuse(f"{name} is missing: install Debian's {package}")
        except ServiceError as e:
            return refuse(f"{name} is missing and {package} was not installed: {e}")
    try:
        porcupine.build()  # inside there is no network
    except ServiceError as e:
        return refuse(str(e))
    trial = run(
        [str(on_path("unshare")), *NAMESPACES, "--", "true"], capture_output=True, text=True
    )
    if trial.returncode:
        return refuse(f"no namespaces can be made here: {trial.stderr.strip()}")
    folder = cache_root() / "cluster" / arguments[0]
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return refuse(f"another run holds {folder}")
    os.set_inheritable(lock, True)  # held until the last process of the run is gone
    enter(folder, [sys.executable, *COMMANDS[arguments[0]], *arguments[1:]])
    raise AssertionError("exec does not return")


def enter(folder: Path, command: list[str]) -> None:
    unshare = on_path("unshare")
    assert unshare is not None
    environment = {
        **os.environ,
        INSIDE: str(folder),
        "PATH": f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin",
    }
    sys.stdout.flush()
    os.execve(unshare, [unshare, *NAMESPACES, "--", *command], environment)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
