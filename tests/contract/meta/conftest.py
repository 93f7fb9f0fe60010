"""The stores under test: each fixture value opens one real implementation."""

from collections.abc import AsyncIterator

import pytest

from coordinator.catalog.metadata_service import MetadataService
from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.port import MetadataStore
from logstore.meta.remote import RemoteMetadataStore
from logstore.meta.rocks import RocksMetadataStore
from logstore.proto.channel import listen, make_server
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import add_MetadataServicer_to_server
from tests.support.services import etcd_store
from tests.support.yielding import YieldingStore

HISTORY = 20


@pytest.fixture(
    params=[
        "memory",
        "yielding",
        "rocks",
        "remote",
        pytest.param("etcd", marks=pytest.mark.process),
    ]
)
async def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[MetadataStore]:
    """An empty store. All but etcd forget their history beyond 20 changes by themselves."""
    if request.param == "etcd":
        client_of_etcd = etcd_store(request.getfixturevalue("etcd_address"))
        yield client_of_etcd
        await client_of_etcd.close()
        return
    if request.param in ("memory", "yielding"):
        kind = MemoryMetadataStore if request.param == "memory" else YieldingStore
        twin = kind(history_events_max=HISTORY)
        yield twin
        await twin.close()
        return
    rocks = RocksMetadataStore(tmp_path_factory.mktemp("meta"), history_events_max=HISTORY)
    if request.param == "rocks":
        yield rocks
        await rocks.close()
        return
    server = make_server()
    add_MetadataServicer_to_server(MetadataService(rocks), server)
    port = listen(server, "127.0.0.1:0")
    await server.start()
    client = RemoteMetadataStore([f"127.0.0.1:{port}"])
    yield client
    await client.close()
    await rocks.close()
    await server.stop(None)
