"""`bench/history.jsonl`: one line a run, with what is needed to compare it with another."""

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from bench.services.paths import cache_root, project_root


def history_path() -> Path:
    root = project_root()
    return root / "bench" / "history.jsonl" if root else cache_root() / "history.jsonl"


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str:
    """Short hash of the checkout, with `+` when it has changes; `unknown` without git."""
    root = project_root()
    if root is None:
        return "unknown"
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    if head.returncode != 0:
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def append_line(kind: str, content: dict[str, Any], path: Path | None = None) -> dict[str, Any]:
    """Add the run; returns the line written. One write call, so that two runs do not mix."""
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kind": kind,
        "commit": commit(),
        **content,
    }
    target = path or history_path()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a") as handle:
        handle.write(json.dumps(line) + "\n")
    return line


def read_lines(path: Path | None = None, kind: str | None = None) -> list[dict[str, Any]]:
    """All runs, oldest first; a line that a kill cut off is left out."""
    target = path or history_path()
    lines = []
    for raw in target.read_text().splitlines() if target.is_file() else []:
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if kind is None or line.get("kind") == kind:
            lines.append(line)
    return lines
