"""Run folders: what one owner has started, and how the next one cleans up after it.

A run folder is `<cache>/services/runs/<id>/` with `owner.json` (its owner) and one folder per
member with its data, its log and its `pid`. Everything that cleaning up needs is on the disk:

1. The folder and `owner.json` exist before the first process is started.
2. Every process carries the run's id in its environment from its first instruction and writes its
   pid before it turns into the service, so it is found at any moment of its life.
3. `sweep` ends and removes every run whose owner is gone, whatever killed it.
"""

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.services.paths import cache_root

RUN_VARIABLE = "LOGSTORE_SERVICE_RUN"
SERVICES_FILE = "services.json"  # of a detached run that came up: name -> address, source
FAILED_LOGS_MAX = 10
KILL_WAIT_S = 10.0


def runs_root() -> Path:
    return cache_root() / "services" / "runs"


def failed_root() -> Path:
    """Logs of services that failed, and of tests that failed while using them."""
    return cache_root() / "services" / "failed"


@dataclass(frozen=True, slots=True)
class ServiceRun:
    """One owner's folder. `detached` runs outlive the command that started them."""

    run_id: str
    folder: Path
    detached: bool

    def member_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def open_run(*, detached: bool = False) -> ServiceRun:
    """Clean up the runs of dead owners, then make a folder for this one."""
    sweep()
    run_id = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    folder = runs_root() / run_id
    # The folder appears with its owner inside, in one rename: a sweep beside us must never see it
    # without. Preparing folders start with a dot and are swept when their owner is gone too.
    preparing = runs_root() / f".{run_id}"
    preparing.mkdir(parents=True)
    me = psutil.Process()
    owner = {"pid": me.pid, "started": me.create_time(), "detached": detached, "run": run_id}
    (preparing / "owner.json").write_text(json.dumps(owner))
    preparing.rename(folder)
    return ServiceRun(run_id, folder, detached)


_shared: dict[int, ServiceRun] = {}
_shared_lock = threading.Lock()


def shared_run() -> ServiceRun:
    """This process's own run, made at first use and ended with the process."""
    with _shared_lock:
        run = _shared.get(os.getpid())
        if run is None or not run.folder.is_dir():
            run = open_run()
            _shared[os.getpid()] = run
            atexit.register(_end_if_ours, os.getpid(), run)
        return run


def _end_if_ours(pid: int, run: ServiceRun) -> None:
    if os.getpid() == pid:  # a forked child inherits the exit handlers, but owns nothing
        end_run(run.folder)


def _owner(folder: Path) -> dict[str, object]:
    try:
        owner = json.loads((folder / "owner.json").read_text())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _owner_alive(owner: dict[str, object]) -> bool:
    pid, started = owner.get("pid"), owner.get("started")
    if not isinstance(pid, int) or not isinstance(started, float):
        return False
    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and abs(process.create_time() - started) < 2.0
    except psutil.Error:
        return False


def _recorded(folder: Path) -> list[psutil.Process]:
    """Processes whose pid a member's folder names. One that started after the record was written
    has a re-used number and is not ours."""
    found = []
    for pidfile in folder.glob("*/pid"):
        try:
            process = psutil.Process(int(pidfile.read_text()))
            if process.create_time() <= pidfile.stat().st_mtime + 2.0:
                found.append(process)
        except (OSError, ValueError, psutil.Error):
            continue
    return found


def _marked(run_id: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(RUN_VARIABLE) == run_id:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def run_processes(folder: Path) -> list[psutil.Process]:
    """Every live process of this run, guards included, each once."""
    run_id = folder.name.lstrip(".")
    unique = {p.pid: p for p in [*_marked(run_id), *_recorded(folder)]}
    return [p for p in unique.values() if p.is_running()]


def end_run(folder: Path) -> int:
    """Kill the run's processes, remove its containers and its folder; how many were killed."""
    ended = run_processes(folder)
    for process in ended:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(ended, timeout=KILL_WAIT_S)
    for record in folder.glob("*/container"):
        subprocess.run(["docker", "rm", "-f", record.read_text()], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)
    return len(ended)


def sweep(*, detached_too: bool = False) -> list[str]:
    """End every run whose owner is gone (and, if asked, the detached ones); the ids ended."""
    ended: list[str] = []
    root = runs_root()
    if not root.is_dir():
        return ended
    for folder in sorted(root.iterdir()):
        owner = _owner(folder)
        if owner.get("detached") is True and (folder / SERVICES_FILE).is_file():
            mine = detached_too  # a detached run that came up: it stays until `down`
        elif not owner and time.time() - _age_reference(folder) < 5.0:
            mine = False  # another process is making it at this moment
        else:
            mine = not _owner_alive(owner)
        if mine:
            end_run(folder)
            ended.append(folder.name)
    return ended


def _age_reference(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return time.time()


def keep_logs(logs: Iterable[Path], label: str) -> Path:
    """Copy a member's logs out of reach of the wipe; the oldest beyond the limit go."""
    target = failed_root() / f"{time.strftime('%Y%m%d-%H%M%S')}-{label}-{uuid.uuid4().hex[:4]}"
    target.mkdir(parents=True, exist_ok=True)
    for log in logs:
        with contextlib.suppress(OSError):  # it may never have been written
            shutil.copy2(log, target / log.name)
    kept = sorted(p for p in failed_root().iterdir() if p.is_dir())
    for old in kept[:-FAILED_LOGS_MAX]:
        shutil.rmtree(old, ignore_errors=True)
    return target
