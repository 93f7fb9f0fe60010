"""What only the remote store promises: several addresses, unknown outcomes, ended watches."""

import asyncio

import grpc.aio
import pytest

from coordinator.catalog.metadata_service import MetadataService
from logstore.base.errors import ConfigError, UnavailableError
from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.port import Put
from logstore.meta.remote import RemoteMetadataStore
from logstore.proto.channel import listen, make_server
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import add_MetadataServicer_to_server
from logstore.proto.transport import GrpcTransport


async def serve(store: MemoryMetadataStore) -> tuple[grpc.aio.Server, str]:
    server = make_server()
    add_MetadataServicer_to_server(MetadataService(store), server)
    port = listen(server, "127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


async def test_reads_go_to_the_address_that_answers() -> None:
    twin = MemoryMetadataStore()
    await twin.txn([], [Put("/a", b"1")])
    server, address = await serve(twin)
    client = RemoteMetadataStore(["127.0.0.1:1", address])
    found = await client.get("/a")
    assert found is not None
    assert found.value == b"1"
    assert (await client.range("/")).revision == 1
    await client.close()
    await server.stop(None)


async def test_a_transaction_is_sent_once_and_turns_to_the_next_address() -> None:
    twin = MemoryMetadataStore()
    server, address = await serve(twin)
    client = RemoteMetadataStore(["127.0.0.1:1", address])
    with pytest.raises(UnavailableError):
        await client.txn([], [Put("/a", b"1")])
    assert await twin.get("/a") is None
    assert (await client.txn([], [Put("/a", b"1")])).succeeded
    await client.close()
    await server.stop(None)


async def test_a_lost_connection_ends_the_watch() -> None:
    twin = MemoryMetadataStore()
    server, address = await serve(twin)
    client = RemoteMetadataStore([address])
    watch = client.watch("/", 0)
    await twin.txn([], [Put("/a", b"1")])
    ((event,),) = [await anext(watch)]
    assert event.value == b"1"
    waiting = asyncio.ensure_future(anext(watch))
    await server.stop(None)
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(waiting, 5)
    with pytest.raises(UnavailableError):
        await client.get("/a")
    await client.close()


async def test_a_closed_store_ends_the_watch() -> None:
    twin = MemoryMetadataStore()
    server, address = await serve(twin)
    client = RemoteMetadataStore([address])
    await twin.txn([], [Put("/a", b"1")])
    watch = client.watch("/", 0)
    await anext(watch)
    await twin.close()
    with pytest.raises(UnavailableError, match="closed"):
        await asyncio.wait_for(anext(watch), 5)
    await client.close()
    await server.stop(None)


async def test_a_store_closes_its_own_transport_and_no_other() -> None:
    server, address = await serve(MemoryMetadataStore())
    shared = GrpcTransport()
    one, two = (RemoteMetadataStore([address], transport=shared) for _ in range(2))
    assert await one.get("/a") is None
    await one.close()
    with pytest.raises(UnavailableError, match="closed"):
        await one.get("/a")
    assert await two.get("/a") is None
    assert list(shared.addresses) == [address]  # one channel for both
    await shared.close()
    with pytest.raises(UnavailableError, match="closed"):
        await two.get("/a")
    await server.stop(None)


def test_no_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        RemoteMetadataStore([])
