"""Every call of the coordinator's services: its line in the table, and its golden answers."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from coordinator.answers.base import decode, encode
from coordinator.answers.plans import PlanFields, plan_fields
from coordinator.calls import CALLS, Of
from logstore.proto.coordinator_v1 import accesses_pb2, coordinator_pb2, placement_pb2
from sharder.config import PlanMode
from sharder.operators import (
    Crossing,
    ForecastSummary,
    Operator,
    Plan,
    Refusal,
    Trigger,
    dump_plan,
)
from sharder.reasons import Reason
from tests.support.golden import FOLDER

FILES = (accesses_pb2.DESCRIPTOR, coordinator_pb2.DESCRIPTOR, placement_pb2.DESCRIPTOR)
METHODS: dict[tuple[str, str], MethodDescriptor] = {
    (service.name, method.name): method
    for file in FILES
    for service in file.services_by_name.values()
    for method in service.methods
}
STORED = sorted(FOLDER.glob("*/*.json"))


def _call_of(path: Path) -> tuple[str, str]:
    service, method, *_ = path.name.split(".")
    return service, method


def test_every_call_is_in_the_table() -> None:
    assert set(CALLS) == set(METHODS)


def test_every_call_has_a_golden_answer() -> None:
    assert {_call_of(path) for path in STORED} == set(METHODS)


def test_the_table_names_every_field_that_holds_json() -> None:
    for name, method in METHODS.items():
        assert set(CALLS[name].json) == set(_json_fields(method.output_type.fields)), name


def _json_fields(fields: Sequence[FieldDescriptor]) -> list[str]:
    found = []
    for field in fields:
        if field.name == "json" or field.name.endswith("_json"):
            found.append(field.name)
        elif field.message_type is not None:
            found += [f"{field.name}.{inner}" for inner in _json_fields(field.message_type.fields)]
    return found


def test_a_call_of_a_shard_says_which_one() -> None:
    """The router reads it from these fields."""
    for name, call in CALLS.items():
        fields = {field.name for field in METHODS[name].input_type.fields}
        if call.of is Of.SHARD:
            assert fields & {"shard", "id", "parents"}, name


def test_a_stream_is_answered_where_it_is_asked() -> None:
    """A stream is not passed on to a leader."""
    streams = {name for name, method in METHODS.items() if method.server_streaming}
    assert streams
    assert all(CALLS[name].of is Of.ANYONE for name in streams)


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_golden_answer_is_read_and_written_by_its_types(path: Path) -> None:
    """Nothing is lost: what was read is encoded to the same bytes again."""
    answer = json.loads(path.read_text())
    for field, kinds in CALLS[_call_of(path)].json.items():
        for document in _documents(answer, field.split(".")):
            data = msgspec.json.encode(document)
            assert data in [_through(data, kind) for kind in kinds]


def _documents(answer: Any, names: list[str]) -> list[Any]:
    """The values below the names, each entry of a repeated field alone."""
    inner = answer.get(names[0], [])
    if len(names) > 1:
        return [found for one in inner for found in _documents(one, names[1:])]
    repeated = names[0] in ("shards_json", "instances_json")
    return list(inner) if repeated else [inner]


def _through(data: bytes, kind: type) -> bytes | None:
    try:
        return encode(decode(data, kind))
    except msgspec.DecodeError:
        return None


def test_a_plan_of_unlimited_instances_is_read() -> None:
    """JSON has no infinity: what is unlimited is null, and None for the reader."""
    load = ForecastSummary(1.0, 0.5, 2.0, 60.0, "ensemble", "ops/s", math.inf, math.inf)
    operator = Operator(
        "split", "x/0", "a", "b", "shadow", 1.0, math.inf, True, 0, 1.0, 0.5, 0.25, load,
        Trigger.FORECAST, "why", b"\xff", None,
    )  # fmt: skip
    refusal = Refusal(Reason.NOT_DUE, "a", "x/0", math.inf, math.inf)
    crossing = Crossing("a", 1.0, 0.5, 3.0, 0.75, Trigger.REACTIVE, load)
    plan = Plan(1.0, 2, PlanMode.ACTIVE, 3.0, (crossing,), (operator,), (refusal,))
    data = encode(plan_fields(plan))
    assert data == dump_plan(plan)
    read = decode(data, PlanFields)
    assert (read.operators[0].forecast.capacity, read.refused[0].limit) == (None, None)
    assert encode(read) == data
