"""Golden answers: what the coordinator's calls answer, stored as JSON and compared to the byte.

`GOLDEN=write` in the environment stores what is answered now. A value that differs between runs is
replaced by one of the same type, by a rule that has a name; the order of fields and the form of
numbers stay as they were answered.
"""

import base64
import difflib
import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
from google.protobuf.message import Message

from logstore.proto.coordinator_v1 import coordinator_pb2_grpc as stubs
from logstore.proto.coordinator_v1.placement_pb2_grpc import PlacementStub
from logstore.proto.status import called

FOLDER = Path(__file__).parent / "golden"
WRITE = os.environ.get("GOLDEN") == "write"
LINES_SHOWN_MAX = 12
"""Of the difference of one file."""


def _same_type(value: Any) -> Any:
    """A number or text that stands for any other of its type; the keys of an object stay."""
    if isinstance(value, dict):
        return {key: _same_type(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_same_type(inner) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return 1
    if isinstance(value, float):
        return 0.5
    return "volatile" if isinstance(value, str) else value


def _no_digits(value: Any) -> Any:
    """Sentences without their figures."""
    if isinstance(value, list):
        return [_no_digits(inner) for inner in value]
    return re.sub(r"\d[\d.,]*", "#", value) if isinstance(value, str) else value


def _empty(value: Any) -> Any:
    """Of an object or a list whose entries differ between runs: only that it is one."""
    return type(value)() if isinstance(value, dict | list) else value


def _number(value: Any) -> Any:
    """None is a number that is yet to come."""
    return 0.5 if value is None else _same_type(value)


def _cpu(value: Any) -> Any:
    return "CPU" if value else value


RULES: dict[str, tuple[re.Pattern[str], Callable[[Any], Any]]] = {
    "times of the wall clock": (re.compile(r".*_us"), _same_type),
    "seconds that something took": (
        re.compile(r"elapsed_s|duration_s|eta_s|hash_age_s|soaked_s|phase_s|stall_ms"),
        _same_type,
    ),
    "figures that are told late": (re.compile(r"blackout_ms"), _number),
    "rates and sizes as measured": (
        re.compile(r"copy_mb_per_s|bytes|bytes_copied|size_bytes|load|shares|expected"),
        _same_type,
    ),
    "periods that had statistics": (re.compile(r"p99_ms|windows"), _empty),
    "drawn identities": (re.compile(r"incarnation|process|cluster"), _same_type),
    "free ports": (re.compile(r"address"), _same_type),
    "hash chains over times": (re.compile(r"(source|target|sealed)_chain"), _same_type),
    "what binds now, by what the machine does": (re.compile(r"bound_by"), _cpu),
    "drawn tokens": (re.compile(r"virtual_key"), _same_type),
    "revisions of the metadata": (re.compile(r"map_version|revision"), _same_type),
    "sentences with figures": (re.compile(r"story|notes"), _no_digits),
}
"""By name: the fields that it is for (whole names), and what it makes of their values."""


def normal(value: Any, rules: frozenset[str]) -> Any:
    """The value with the named rules applied; of a float 12 digits, as processors differ."""
    if isinstance(value, list):
        return [normal(inner, rules) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if not isinstance(value, dict):
        return value
    return {name: _field(name, inner, rules) for name, inner in value.items()}


def _field(name: str, value: Any, rules: frozenset[str]) -> Any:
    for rule, (pattern, replaced) in RULES.items():
        if rule in rules and pattern.fullmatch(name):
            return replaced(value)
    return normal(value, rules)


def documents(message: Message) -> dict[str, list[bytes]]:
    """The fields of an answer that hold JSON, each with its documents."""
    found: dict[str, list[bytes]] = {}
    for field, value in message.ListFields():
        if field.name == "json" or field.name.endswith("_json"):
            found[field.name] = [value] if isinstance(value, bytes) else list(value)
    return found


def shown(message: Message) -> dict[str, Any]:
    """An answer as JSON types: its JSON decoded, other bytes as base64 (a PNG: only its magic)."""
    held = documents(message)
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name in held:
            read = [_decoded(data) for data in held[field.name]]
            found[field.name] = read[0] if isinstance(value, bytes) else read
        elif field.name == "png":
            found[field.name] = base64.b64encode(value[:8]).decode()
        elif isinstance(value, Message):
            found[field.name] = shown(value)
        elif isinstance(value, bytes):
            found[field.name] = base64.b64encode(value).decode()
        elif isinstance(value, str | int | float):
            found[field.name] = value
        elif hasattr(value, "items"):
            found[field.name] = dict(value)
        else:
            found[field.name] = [shown(v) if isinstance(v, Message) else v for v in value]
    return found


def _decoded(data: bytes) -> Any:
    """Nothing of an answer's bytes is lost on the way through JSON types."""
    value = msgspec.json.decode(data)
    assert msgspec.json.encode(value) == data
    return value


def _differences(scene: str, stored: dict[str, str], taken: dict[str, str]) -> str:
    """The files that differ, the first lines that do, and how to accept them."""
    said = []
    for case in sorted(stored.keys() | taken.keys()):
        before, now = stored.get(case), taken.get(case)
        if before == now:
            continue
        state = "is not answered" if now is None else "is new" if before is None else "differs"
        said.append(f"{scene}/{case}.json {state}")
        if before is not None and now is not None:
            lines = difflib.unified_diff(before.splitlines(), now.splitlines(), n=1, lineterm="")
            said += itertools.islice(lines, 2, 2 + LINES_SHOWN_MAX)  # behind the files' names
    test = os.environ["PYTEST_CURRENT_TEST"].partition(" ")[0]
    accepted = f"If that is meant: GOLDEN=write python -m pytest {test}"
    return "\n".join(["the answers are not the stored ones:", *said, accepted])


class Golden:
    """The answers of one scene. `rules`: names of those that its volatile values need."""

    def __init__(self, scene: str, rules: frozenset[str]) -> None:
        assert rules <= set(RULES)
        self._folder, self._rules = FOLDER / scene, rules
        self._taken: dict[str, str] = {}

    def take(self, case: str, message: Message) -> Any:
        """Keep an answer as `SERVICE.METHOD` or `SERVICE.METHOD.case`; returns it as JSON types."""
        assert case not in self._taken
        found = shown(message)
        text = msgspec.json.format(msgspec.json.encode(normal(found, self._rules)), indent=2)
        self._taken[case] = text.decode() + "\n"
        return found

    def check(self) -> None:
        """Every answer is the stored one, to the byte, and none is missing."""
        if WRITE:
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in self._folder.glob("*.json"):
                path.unlink()
            for case, text in self._taken.items():
                (self._folder / f"{case}.json").write_text(text)
        stored = {path.stem: path.read_text() for path in self._folder.glob("*.json")}
        if self._taken != stored:
            raise AssertionError(_differences(self._folder.name, stored, self._taken))


class Caller:
    """Calls one coordinator, and keeps its answers."""

    def __init__(self, channel: grpc.aio.Channel, golden: Golden) -> None:
        self.channel, self.golden = channel, golden

    async def call(self, name: str, request: Any) -> Any:
        """The answer of `SERVICE.METHOD`; it is not kept."""
        service, _, method = name.partition(".")
        made = PlacementStub if service == "Placement" else getattr(stubs, f"{service}Stub")
        async with called():
            return await getattr(made(self.channel), method)(request, timeout=60)

    async def ask(self, name: str, request: Any, case: str = "") -> Any:
        """The answer of `SERVICE.METHOD`, kept, as JSON types."""
        answer = await self.call(name, request)
        return self.golden.take(f"{name}.{case}" if case else name, answer)
