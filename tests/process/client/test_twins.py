"""The synchronous client is the asynchronous one: same methods, signatures and words, and on a real
cluster the same answers and errors. The examples of both run as they are written.
"""

import ast
import asyncio
import importlib
import inspect
import io
import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

import logstore
from logstore.client import generate
from logstore.errors import LogstoreError
from tests.process.mistakes.test_up import up

PAIRS = [
    (logstore.Client, logstore.SyncClient),
    (logstore.Log, logstore.SyncLog),
    (logstore.Scan, logstore.SyncScan),
    (logstore.Records, logstore.SyncRecords),
    (logstore.Results, logstore.SyncResults),
]
NAMES = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"} | {
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}
ADDRESS = "127.0.0.1:7400"
STAMP = 1_700_000_000_000_000


# ---- the same signatures -----------------------------------------------------------------------


def test_the_generated_client_is_fresh() -> None:
    assert generate.TARGET.read_text() == generate.generate(), (
        "run python -m logstore.client.generate"
    )


def shape(function: Any) -> tuple[list[tuple[Any, ...]], str]:
    """Names, kinds, defaults and types of a call, with the names of the asynchronous client."""
    if isinstance(function, property):
        function = function.fget
    signature = inspect.signature(function)
    found = [(p.name, p.kind, p.default, str(p.annotation)) for p in signature.parameters.values()]
    returned = re.sub(r"\bSync", "", str(signature.return_annotation))
    return found, returned


@pytest.mark.parametrize(("mine", "twin"), PAIRS, ids=lambda kind: kind.__name__)
def test_every_public_method_has_a_twin_of_the_same_signature(mine: type, twin: type) -> None:
    for name, member in vars(mine).items():
        if name.startswith("_") and name not in NAMES:
            continue
        other = inspect.getattr_static(twin, NAMES.get(name, name))
        assert isinstance(member, property) == isinstance(other, property), name
        assert not inspect.iscoroutinefunction(other), name
        if name not in ("__aexit__", "name"):  # the sync iterators' exit takes what comes
            assert shape(member) == shape(other), name
    extra = {n for n in dir(twin) if not n.startswith("_")} - {NAMES.get(n, n) for n in dir(mine)}
    assert extra - {"name"} == set()


def test_connect_has_a_twin() -> None:
    assert shape(logstore.connect) == shape(logstore.connect_sync)


# ---- the same answers, on a real cluster -------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with up(tmp_path_factory.mktemp("twins"), "--instances", "2") as cluster:
        yield cluster.address


class Do:
    """Runs calls of either client to their end."""

    def __init__(self, runner: asyncio.Runner | None) -> None:
        self._runner = runner

    def __call__(self, call: Callable[[], Any]) -> Any:
        """What the call returns, awaited if it is to be."""
        if self._runner is None:
            return call()

        async def run() -> Any:
            found = call()
            return await found if inspect.isawaitable(found) else found

        return self._runner.run(run())

    def all(self, make: Callable[[], Any]) -> list[Any]:
        """Everything that an iterator gives."""
        if self._runner is None:
            return list(make())

        async def run() -> list[Any]:
            return [item async for item in make()]

        return self._runner.run(run())

    def told(self, call: Callable[[], Any]) -> tuple[type, str, int]:
        """The error that the call must end with."""
        with pytest.raises(LogstoreError) as error:
            self(call)
        return type(error.value), error.value.message, error.value.retry_after_ms

    def told_of(self, make: Callable[[], Any]) -> tuple[type, str, int]:
        """The error that the iterator must end with."""
        with pytest.raises(LogstoreError) as error:
            self.all(make)
        return type(error.value), error.value.message, error.value.retry_after_ms


def lifecycle(db: Any, do: Do) -> list[Any]:
    """Every public call, and what it gave."""
    wrong: dict[str, Any] = {"replica": 3}
    log = do(lambda: db.create_log("twin", split_keys=[b"m"], compression="lz4"))
    found = [
        log.name,
        do(lambda: db.list_logs()),
        do.told(lambda: db.create_log("twin")),
        do.told(lambda: db.create_log("other", **wrong)),
        do.told(lambda: db.log("nowhere")),
        do.told(lambda: db.delete_log("nowhere")),
        do(lambda: log.append(b"a", b"0", timestamp=STAMP, headers={"h": b"1"})),
        do(lambda: log.append(b"a", b"1", timestamp=STAMP + 1, expected_version=1)),
        do.told(lambda: log.append(b"a", b"2", timestamp=STAMP, expected_version=1)),
        do.told(lambda: log.append("a", b"2")),
        do(lambda: log.append_many([b"b", b"z", b"b"], [b"2", b"3", b"4"], [STAMP + 2] * 3)),
        do.told(lambda: log.append_many([b"b"], [b"2", b"3"])),
        do.all(lambda: log.read(key=b"b")),
        do.all(lambda: log.read(order="key")),
        do.all(lambda: log.read(start=b"b", limit=2, order="key")),
        do.all(lambda: log.read(shard="twin/0", offset=1)),
        do.all(lambda: log.read(since=STAMP + 2, order="key")),
        do.told(lambda: log.read(ofset=1)),
        do.told(lambda: log.read(key=b"a", end=b"b")),
        do.told_of(lambda: log.read(shard="twin/9")),
        do.told_of(lambda: log.read(shard="twin/0", offset=99)),
        do.all(lambda: log.lists(tail=False, key=b"b")),
        do.all(lambda: log.tail(from_start=True, key=b"b", limit=2)),
        do.all(lambda: log.tail(idle_timeout_s=0.05)),
        do.told(lambda: log.tail(order="key")),
        do(lambda: log.scan(key=b"a").to_arrow()).to_pylist(),
        [batch.num_rows for batch in do.all(lambda: log.scan(key=b"b").batches())],
        list(do(lambda: log.scan(key=b"a").to_pandas()).columns),
        log.trimmed,
        [(s.id, s.range) for s in do(log.shard_map).open_shards],
    ]
    tail = do(lambda: log.tail(from_start=True, key=b"a"))
    polled: list[Any] = []
    while len(polled) < 2:  # they may come in several steps
        polled += do(lambda: tail.poll(20))
    found += [polled, do(lambda: tail.poll(0)), tail.ended]
    found += [do(tail.close if isinstance(tail, logstore.SyncRecords) else tail.aclose), tail.ended]
    do(lambda: db.delete_log("twin", now=True))
    found.append(do.told(lambda: log.append(b"a", b"2")))
    return found


def test_both_clients_do_the_same_on_a_real_cluster(address: str) -> None:
    with asyncio.Runner() as runner:
        do = Do(runner)
        db = logstore.connect(address, timeout_s=60)
        do(db.__aenter__)
        mine = lifecycle(db, do)
        do(db.close)
        mine.append(do.told(db.list_logs))
    with logstore.connect_sync(address, timeout_s=60) as twin:
        theirs = lifecycle(twin, Do(None))
    theirs.append(Do(None).told(twin.list_logs))
    for step, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        assert one == other, step
    errors = [e for e in mine if isinstance(e, tuple) and isinstance(e[0], type)]
    assert len(errors) == 14
    assert [r.value for r in mine[13]] == [b"0", b"1", b"2", b"4", b"3"]


# ---- the examples ------------------------------------------------------------------------------


def examples(things: list[Any]) -> Iterator[tuple[str, str]]:
    """Every example of the things and their public methods."""
    for thing in things:
        members = [thing]
        if inspect.isclass(thing):
            members += [m for n in dir(thing) if not n.startswith("_") for m in [getattr(thing, n)]]
        for member in members:
            _, found, code = (inspect.getdoc(member) or "").partition("Example:\n")
            if found and getattr(member, "__module__", "").startswith("logstore"):
                yield getattr(member, "__qualname__", thing.__name__), textwrap.dedent(code)


def of_module(name: str) -> str:
    """The example of a module: its first indented lines."""
    text = importlib.import_module(name).__doc__ or ""
    found = re.search(r"^(?: {4}.*\n)+", text, re.MULTILINE)
    assert found is not None
    return textwrap.dedent(found[0])


TWINS = [*(twin for _, twin in PAIRS), logstore.connect_sync]
OTHERS = [getattr(logstore, name) for name in logstore.__all__ if name != "errors"]
ASYNC = [
    *examples([thing for thing in OTHERS if thing not in TWINS]),
    ("logstore", of_module("logstore")),
    ("errors", of_module("logstore.errors")),
]
SYNC = list(examples(TWINS))


def test_there_are_examples() -> None:
    assert len(ASYNC) >= 25
    assert len(SYNC) >= 18


def fresh(db: logstore.SyncClient, code: str) -> None:
    """The log "orders" as an example finds it: absent if it makes one, else with a record."""
    for name in {"audit", "carts", "orders"} & set(db.list_logs()):
        db.delete_log(name, now=True)
    if "create_log" not in code:
        log = db.create_log("orders")
        if "expected_version=0" not in code:
            log.append(b"user-1", b"x")


async def test_the_examples_run(address: str) -> None:
    with logstore.connect_sync(address) as operator:
        async with logstore.connect(address) as db:
            for name, code in ASYNC:
                await asyncio.to_thread(fresh, operator, code)
                space = {"logstore": logstore, "db": db, "Path": Path}
                if "create_log" not in code:
                    space["log"] = await db.log("orders")
                code = code.replace(ADDRESS, address)
                text = compile(code, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                with redirect_stdout(io.StringIO()):
                    ran = eval(text, space)
                    if inspect.isawaitable(ran):
                        await ran


def test_the_examples_of_the_twins_run(address: str) -> None:
    with logstore.connect_sync(address) as db:
        for name, code in SYNC:
            fresh(db, code)
            space: dict[str, Any] = {"logstore": logstore, "db": db}
            if "create_log" not in code:
                space["log"] = db.log("orders")
            with redirect_stdout(io.StringIO()):
                exec(compile(code.replace(ADDRESS, address), name, "exec"), space)
