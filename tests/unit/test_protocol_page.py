"""docs/reference/protocol.md names every call; its numbers, flags and columns are the code's."""

import importlib
import re
from pathlib import Path

import pyarrow as pa
import pytest
import xxhash

from logstore.base import limits
from logstore.engine.batch import FLAG_HEADERS, FLAG_OFFSETS, FLAG_TIMES, schema_of
from sharder.keys import Partitioner, routing_key

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/reference/protocol.md").read_text()
ROW = re.compile(r"^\| (.+?) \| (.+?) \|", re.MULTILINE)
CELLS = dict(ROW.findall(PAGE))
LIMITS = {
    "appends in flight, and remembered, of a producer and shard": limits.PRODUCER_WINDOW,
    "producers that a shard remembers": limits.PRODUCERS_PER_SHARD_MAX,
    "bytes of a key": limits.KEY_BYTES_MAX,
    "bytes of a record": limits.RECORD_BYTES_MAX,
    "bytes of a batch": limits.BATCH_BYTES_MAX,
    "records of a batch": limits.BATCH_RECORDS_MAX,
    "headers of a record": limits.HEADERS_MAX,
    "bytes of a gRPC message": limits.MESSAGE_BYTES_MAX,
}
FILES = [
    importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for path in sorted((ROOT / "logstore" / "proto").rglob("*_pb2.py"))
]


@pytest.mark.parametrize("what", LIMITS)
def test_a_limit_is_the_codes(what: str) -> None:
    assert CELLS[what] == str(LIMITS[what])


def test_every_call_is_there() -> None:
    calls = {
        f"{service.name}.{method.name}"
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    absent = {
        call
        for call in calls
        if call not in PAGE
        and not re.search(rf"^\| `{call.split('.')[0]}` \|.*\b{call.split('.')[1]}\b", PAGE, re.M)
    }
    assert absent == set()


def test_every_proto_names_its_go_package() -> None:
    assert FILES
    for file in FILES:
        assert file.DESCRIPTOR.GetOptions().go_package, file.DESCRIPTOR.name


def test_the_columns_are_those_of_a_page() -> None:
    schema = schema_of(FLAG_OFFSETS | FLAG_TIMES | FLAG_HEADERS)
    begin = PAGE.index("| column | type |")
    shown = dict(ROW.findall(PAGE[begin : PAGE.index("\n\n", begin)])[1:])
    names = [name.strip("`") for name in shown if name.startswith("`")]
    assert names == schema.names
    assert {f.name: f.type for f in schema if f.name != "headers"} == {
        name.strip("`"): getattr(pa, kind.split(",")[0])()
        for name, kind in shown.items()
        if name.strip("`") in schema.names and name != "`headers`"
    }
    assert "1 `headers` (last), 2 `timestamp`; 4 says" in PAGE
    assert (FLAG_HEADERS, FLAG_TIMES, FLAG_OFFSETS) == (1, 2, 4)


def test_the_token_is_as_the_page_says() -> None:
    token = xxhash.xxh3_64(b"user-7", seed=0).intdigest().to_bytes(8, "big")
    assert routing_key(Partitioner.HASH, b"user-7") == token + b"user-7"
    assert "XXH3-64 of the key, seed 0, without secret, big-endian" in PAGE
