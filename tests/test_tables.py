"""One idea, one place: tables read, change and follow the records of the metadata store (I9).

Each list names what rightly does it by itself, and why. `logstore/meta` is below the tables.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from tests.test_tidy import ROOT, modules, name_of, tree

META = "logstore.meta."
RECORDS = ("logstore/meta/records.py", "coordinator/migration/records.py")
DECODING = (*RECORDS, "coordinator/migration/reshape.py")

DECODES: Mapping[str, str] = {
    "coordinator.cli.logs": "records in a coordinator's answer",
    "coordinator.cli.verify": "records in a coordinator's answer",
    "coordinator.local.survey": "records in a coordinator's answer",
    "coordinator.planning.announcements": "the tables of what is announced, and a request",
    "coordinator.recovery.facts": "records that a copy on a disk was kept with",
    "logstore.node.instance.claim": "the newest generation's id, as each answer is confirmed",
    "logstore.node.instance.metadata_view": "the instance's view of the whole store",
}
"""Modules that decode records, or values of the store, themselves."""

LOOPS: Mapping[str, str] = {
    "coordinator.catalog.catalog.Catalog._drop_notes": "several transactions, nothing to compare",
    "coordinator.catalog.catalog.Catalog._drop_shards": "several transactions, until none is left",
    "coordinator.catalog.catalog.Catalog.write_new": "several transactions, tried once",
    "coordinator.local.demo.first_primaries._all_there": "a wish for each shard, looked at again",
    "logstore.meta.table.transact": "the one loop",
    "logstore.node.instance.replica.Replica._cas": "the machine's: a lost race is its event",
}
"""Functions that write transactions in a loop."""

WATCHES: Mapping[str, str] = {
    "coordinator.catalog.metadata_service.MetadataService.Watch": "passes one on to an instance",
    "logstore.meta.election.Election._vacant": "one key, until it is deleted",
    "logstore.meta.election.FencedStore.watch": "the store's own, unfenced",
    "logstore.meta.table.ReadTable.follow": "the one loop",
    "logstore.meta.table._first": "the one wait",
    "logstore.node.instance.claim.ClaimedStore.watch": "the store's own, unfenced",
    "logstore.node.instance.instance.Instance._follow_metadata": "its view of the whole store",
}
"""Functions that open a watch of the store."""


def functions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Each function of a module with its full name; one in another counts as part of that."""

    def within(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                yield from within(child, f"{name}.{child.name}")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}.{child.name}", child

    yield from within(tree(path), name_of(path))


def calls(node: ast.AST, method: str) -> list[ast.Call]:
    """Calls of a method of this name."""
    return [
        n
        for n in ast.walk(node)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == method
    ]


def kinds() -> set[str]:
    """The classes that the records' modules define."""
    return {
        node.name for p in RECORDS for node in tree(ROOT / p).body if isinstance(node, ast.ClassDef)
    }


@cache
def decoders() -> set[str]:
    """The functions that decode one kind each."""
    return {
        node.name
        for p in DECODING
        for node in tree(ROOT / p).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("decode_")
    }


def decoded(node: ast.AST, records: set[str]) -> list[str]:
    """Where a record is decoded: by its decoder, by msgspec with its type, or from `.value`."""
    found = []
    for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
        text = ast.unparse(call.func)
        of_type = {ast.unparse(k.value) for k in call.keywords if k.arg == "type"}
        inner = call.args[0] if call.args else None
        if (
            text.rpartition(".")[2] in decoders()
            or (text == "msgspec.json.decode" and of_type & records)
            or text.endswith(".value.decode")
            or (text == "int" and isinstance(inner, ast.Attribute) and inner.attr == "value")
        ):
            found.append(ast.unparse(call))
    return found


def test_the_finders_find() -> None:
    assert {"decode_shard", "decode_migration", "decode_reshape"} <= decoders()
    code = ast.parse(
        "decode_log(found.value)\nmsgspec.json.decode(x, type=DrainRecord)\n"
        "int(found.value)\nfound.value.decode()\nmsgspec.json.decode(x, type=dict)\n"
        "Table(store, LOGS, decode_log)\nint(text)"
    )
    assert len(decoded(code, kinds())) == 4
    assert len(calls(ast.parse("await self._store.txn([], [])"), "txn")) == 1


def test_records_are_decoded_by_their_tables() -> None:
    records = kinds() - {"LogOptions", "MoveOptions"}  # fields of records, and of requests
    found = {
        name_of(path): texts
        for path in modules("logstore", "coordinator")
        if not name_of(path).startswith(META)
        and str(path.relative_to(ROOT)) not in DECODING
        and (texts := decoded(tree(path), records))
    }
    assert found.keys() == DECODES.keys(), found


def test_changes_are_tried_again_in_one_place() -> None:
    found = {
        name
        for path in modules("logstore", "coordinator")
        for name, function in functions(path)
        for loop in ast.walk(function)
        if isinstance(loop, ast.While | ast.For | ast.AsyncFor) and calls(loop, "txn")
    }
    assert found == set(LOOPS)


def test_the_store_is_followed_in_one_place() -> None:
    found = {
        name
        for path in modules("logstore", "coordinator")
        for name, function in functions(path)
        if calls(function, "watch")
    }
    assert found == set(WATCHES)


def test_nobody_writes_a_shard_by_a_table() -> None:  # P9
    """`shard_writes` adds the tombstones; a `Table` over the shards would go past it."""
    found = [
        f"{name_of(path)}: {ast.unparse(node)}"
        for path in modules("logstore", "coordinator")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Table"
        and any(ast.unparse(arg).startswith("SHARDS") for arg in node.args)
    ]
    assert found == []
