"""Streams that end at a bad moment, and tasks that end unexpectedly."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import structlog

from logstore.base.errors import UnavailableError
from logstore.engine.port import CopyFacts, ReplicaMeta, Retired
from logstore.proto.status import called
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import (
    PeerServiceServicer,
    PeerServiceStub,
    add_PeerServiceServicer_to_server,
)
from tests.support.nodes import nodes


class Hasty(PeerServiceServicer):
    """Ends every stream at once."""

    async def Replicate(
        self, requests: object, context: object
    ) -> AsyncIterator[node_pb2.ReplicateAck]:
        return
        yield


async def test_a_write_after_the_streams_end_is_a_lost_connection() -> None:
    server = grpc.aio.server()
    servicer = Hasty()  # type: ignore[abstract]  # what it leaves out is never called
    add_PeerServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = PeerServiceStub(channel).Replicate()
        assert await call.read() is grpc.aio.EOF
        with pytest.raises(UnavailableError, match="already finished"):
            async with called():
                await call.write(node_pb2.ReplicateRequest())
    await server.stop(None)


async def test_a_task_that_fails_as_nobody_foresaw_asks_for_a_new_process(tmp_path: Path) -> None:
    async def fails() -> None:
        raise ZeroDivisionError("unforeseen")

    async def breaks() -> None:
        raise UnavailableError("foreseen")

    async with nodes(tmp_path, 1) as cluster:
        await cluster.create("orders/0", "i1")
        await cluster.until("orders/0", lambda record: record.epoch == 2)  # its copy opened
        instance = cluster.servers["i1"].instance
        replica = instance.replica("orders/0")
        await asyncio.wait([replica.spawn(breaks(), "one")])
        assert instance.node.broken is None
        await asyncio.wait([replica.spawn(fails(), "push orders/0")])
        assert "push orders/0: ZeroDivisionError" in str(instance.node.broken)
        assert "unforeseen" in (await cluster.servers["i1"].ended()).why


async def test_a_task_of_instance_or_server_that_fails_asks_for_a_new_process_once(
    tmp_path: Path,
) -> None:
    async def fails() -> None:
        raise ZeroDivisionError("unforeseen")

    async with nodes(tmp_path, 2) as cluster:
        for name, tasks in (
            ("i1", cluster.servers["i1"]._tasks),
            ("i2", cluster.servers["i2"].instance._tasks),
        ):
            others = len(tasks)
            with structlog.testing.capture_logs() as logs:
                await asyncio.wait([tasks.start(fails(), "the one")])
            lines = [line for line in logs if line["event"] == "instance broken"]
            assert [(line["task"], line["error"]) for line in lines] == [
                ("the one", "ZeroDivisionError: unforeseen")
            ]
            assert len(tasks) == others  # the others go on
            assert "unforeseen" in (await cluster.servers[name].ended()).why


async def test_facts_of_a_copy_that_is_retired_meanwhile_are_dropped(tmp_path: Path) -> None:
    """Its facts wait for the thread while a tombstone is carried out; no task ends by it."""
    async with nodes(tmp_path, 1) as cluster:
        await cluster.create("orders/0", "i1")
        await cluster.until("orders/0", lambda record: record.epoch == 2)
        instance = cluster.servers["i1"].instance
        engine, copies, busy = instance.node.engine, instance.copies, threading.Event()
        engine.create_replica(ReplicaMeta(77, "orders/7"))
        facts = CopyFacts(instance.claim.cluster, instance.claim.generation, 1, b"", b"")
        instance._index_thread.submit(busy.wait)
        copies.acted_on(77, facts)
        while copies._due:  # until they wait for the thread
            await asyncio.sleep(0)
        engine.retire_replica(77, Retired("a test", 1, 0, 1 << 60))
        busy.set()
        engine.create_replica(ReplicaMeta(78, "orders/8"))
        copies.acted_on(78, facts)
        async with asyncio.timeout(10):
            while engine.facts(78) != facts:
                await asyncio.sleep(0.01)
        assert instance.node.broken is None
