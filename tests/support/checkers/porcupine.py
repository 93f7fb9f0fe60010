"""Conditional appends judged by porcupine, a linearizability checker that others wrote (I6).

It stands beside `tests.support.history.linear`, which is ours: two judges of one kind of history.
Porcupine is a Go module; the program in `tests/support/porcupine` is built once into the cache, by
the Go that is there or that the distribution has. Without one `build` raises ServiceError: nothing
is passed over.
"""

import hashlib
import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any

from bench.services.base import ServiceError
from bench.services.install import cache_lock, may_install, program
from tests.support.checkers.history import AppendCall, Outcome, ReadCall, Violation

SOURCE = Path(__file__).resolve().parents[1] / "porcupine"
FILES = ("go.mod", "go.sum", "main.go")
JUDGE_TIMEOUT_S = 600.0


def build() -> Path:
    """The program, built if these sources never were. ServiceError says what is missing."""
    digest = hashlib.sha256(b"".join((SOURCE / name).read_bytes() for name in FILES)).hexdigest()
    with cache_lock(f"porcupine/{digest[:16]}") as folder:
        binary = folder / "judge"
        if binary.is_file():
            return binary
        go = program("go", packages=["golang-go"])
        if go is None or not may_install():
            raise ServiceError("Go is missing, which builds porcupine: install golang-go")
        fresh = folder / "judge.new"
        environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
        command = [go, "build", "-trimpath", "-buildvcs=false", "-o", str(fresh), "."]
        done = subprocess.run(
            command, cwd=SOURCE, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ServiceError(f"building porcupine failed:\n{done.stderr[-2000:]}")
        fresh.replace(binary)
        return binary


def check(
    appends: Iterable[AppendCall],
    conflicts: Set[bytes],
    reads: Iterable[ReadCall] = (),
    stored: Set[bytes] | None = None,
) -> list[Violation]:
    """Every key that was appended to with an expectation, each alone.

    `conflicts`: values refused for the version. `reads`: only those that must be linearizable.
    `stored`: the values that the log has at the end; it decides unknown outcomes, None leaves them.
    """
    calls = list(appends)
    keys = {call.key for call in calls if call.expected_version is not None}
    lines = [
        *(_append(call, conflicts, stored) for call in calls if call.key in keys),
        *(_read(read) for read in reads if read.key in keys),
    ]
    operations = [line for line in lines if line is not None]
    if not operations:
        return []
    return list(_judge(_numbered(operations)))


def _judge(operations: list[dict[str, Any]]) -> Iterator[Violation]:
    text = "".join(json.dumps(operation) + "\n" for operation in operations)
    done = subprocess.run(
        [build()], input=text, capture_output=True, text=True, timeout=JUDGE_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise ValueError(f"porcupine did not take the history: {done.stderr.strip()}")
    names = {operation["key"] for operation in operations}
    for line in done.stdout.splitlines():
        verdict = json.loads(line)
        names.discard(verdict["key"])
        if verdict["verdict"] != "ok":
            name = "not-linearizable" if verdict["verdict"] == "illegal" else "search-too-long"
            text = f"key {verdict['key']}: porcupine says {verdict['verdict']}"
            yield Violation(name, f"{text} of {verdict['operations']} operations")
    if names:
        raise ValueError(f"porcupine gave no verdict of {sorted(names)}")


def _append(
    call: AppendCall, conflicts: Set[bytes], stored: Set[bytes] | None
) -> dict[str, Any] | None:
    """None: it says nothing of the version (refused for another reason, or surely not stored)."""
    line = _line(call.client, call.key, "append", call.called_s, call.returned_s)
    line["expected"] = call.expected_version
    if call.outcome is Outcome.UNKNOWN or call.returned_s is None:
        line["result"] = "unknown"
        if stored is not None:
            if call.value not in stored:
                return None
            line["result"], line["end"] = "ok", None  # at some time after its call
    elif call.outcome is Outcome.ACKED:
        line["result"], line["version"] = "ok", call.version
    elif call.value in conflicts:
        line["result"] = "conflict"
    else:
        return None
    return line


def _read(read: ReadCall) -> dict[str, Any]:
    assert read.key is not None
    line = _line(read.client, read.key, "read", read.called_s, read.returned_s)
    line["result"], line["version"] = "ok", len(read.rows)
    return line


def _line(
    client: str, key: bytes, kind: str, start_s: float, end_s: float | None
) -> dict[str, Any]:
    end = None if end_s is None else round(end_s * 1e9)
    return {"client": client, "key": repr(key), "kind": kind, "start": round(start_s * 1e9),
            "end": end}  # fmt: skip


def _numbered(operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Clients as numbers; an unknown end comes after every other."""
    numbers: dict[str, int] = defaultdict(lambda: len(numbers))
    last = max(max(o["start"], o["end"] or 0) for o in operations) + 1
    return [
        {**o, "client": numbers[o["client"]], "end": last if o["end"] is None else o["end"]}
        for o in operations
    ]
