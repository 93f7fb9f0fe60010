"""Shard records are written in one way, so that no copy leaves one without a tombstone (P9)."""

import ast
from dataclasses import replace
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from logstore.base.types import ShardStatus
from logstore.meta.memory import check_txn
from logstore.meta.port import Compare, Delete, Put
from logstore.meta.records import (
    Member,
    ShardRecord,
    decode_shard,
    decode_tombstone,
    log_key,
    shard_key,
    tombstone_key,
)
from logstore.meta.shard_writes import (
    change_shard,
    compares_of,
    delete_shard,
    in_chunks,
    new_shard,
    operations_of,
)
from logstore.meta.tombstones import Order
from sharder.keys import KeyRange

ROOT = Path(__file__).parents[3]
ORDER = Order("c1", "because", 7, 60.0)


def shard(number: int, ids: list[int], learners: list[int]) -> ShardRecord:
    members = [Member(f"i{n}", 1, n) for n in ids]
    more = [Member(f"i{n}", 1, n) for n in learners]
    return ShardRecord(
        f"log/{number}", "log", KeyRange(), ShardStatus.OPEN, 1, 1, members[0], tuple(members),
        tuple(more),
    )  # fmt: skip


copies = st.lists(st.integers(1, 20), min_size=1, max_size=9, unique=True)


@given(copies, copies, st.integers(1, 8), st.integers(1, 8))
def test_each_copy_that_leaves_and_no_other_gets_one(
    old: list[int], new: list[int], cut_old: int, cut_new: int
) -> None:
    before = shard(0, old[:cut_old], old[cut_old:])
    after = shard(0, new[:cut_new], new[cut_new:])
    write = change_shard(before, 41, after, ORDER)
    assert write.compare == Compare(shard_key("log/0"), 41)
    first, *rest = write.operations
    assert isinstance(first, Put)
    assert decode_shard(first.value) == after
    answer = [decode_tombstone(op.value) for op in rest if isinstance(op, Put)]
    assert len(answer) == len(rest)
    assert {t.replica_id for t in answer} == set(old) - set(new)
    assert all((t.cluster, t.revision, t.keep_s, t.cause) == ("c1", 41, 60.0, "because")
               for t in answer)  # fmt: skip


def test_a_deleted_shard_orders_all_its_copies_away() -> None:
    write = delete_shard(shard(3, [1, 2], [9]), 5, ORDER)
    assert write.operations[0] == Delete(shard_key("log/3"))
    assert [op.key for op in write.operations[1:]] == [tombstone_key(f"i{n}", n) for n in (1, 2, 9)]


def test_a_copy_that_becomes_a_member_of_another_kind_stays() -> None:
    before = shard(0, [1, 2], [3])
    after = replace(before, in_sync=before.members(), learners=())
    assert len(change_shard(before, 1, after, ORDER).operations) == 1


@given(st.lists(st.tuples(copies, st.integers(0, 60_000)), max_size=300))
@example([([1, 2, 3], 0)] * 1_000)
@example([([1], 60_000)] * 60)
def test_chunks_keep_the_order_and_fit_a_transaction(
    shards: list[tuple[list[int], int]],
) -> None:
    writes = []
    for number, (ids, key_bytes) in enumerate(shards):
        ids = [100 * number + n for n in ids]
        record = replace(shard(number, ids, []), range=KeyRange(b"k" * key_bytes or b"", None))
        writes.append(delete_shard(record, 1, ORDER) if number % 2 else new_shard(record))
    chunks = list(in_chunks(writes))
    assert [w for chunk in chunks for w in chunk] == writes
    for chunk in chunks:
        log = [Put(log_key("log"), b"x" * 1_000)]
        fence = [Compare("/fence", 1), Compare(log_key("log"), 0)]
        check_txn([*compares_of(chunk), *fence], [*operations_of(chunk), *log])


ALLOWED = {"generation_key", "instance_key", "log_key", "process_key"}
"""Who names a key that is no shard's."""
OURS = ("coordinator", "logstore/node")
KNOWN = {
    ("coordinator/catalog/metadata_service.py", "operation.key"),
    ("coordinator/recovery/write.py", "item.key"),
    ("logstore/node/instance/claim.py", "key"),
}
"""Keys as they were read, each looked at by hand: no shard's."""


def test_no_one_else_puts_or_deletes_a_shard() -> None:
    """Every other `Put` and `Delete`, of coordinators and instances, names no shard's key."""
    seen = set()
    for path in sorted(p for d in OURS for p in (ROOT / d).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id not in ("Put", "Delete"):
                continue
            key = node.args[0]
            text = ast.unparse(key)
            if isinstance(key, ast.Name) and text.isupper():
                continue
            if isinstance(key, ast.Call) and ast.unparse(key.func) in ALLOWED:
                continue
            seen.add((name, text))
    assert seen == KNOWN, f"use logstore.meta.shard_writes: {sorted(seen ^ KNOWN)}"
