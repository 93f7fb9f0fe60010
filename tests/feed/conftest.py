"""One real Kafka for all feed tests of a run."""

from collections.abc import AsyncIterator, Iterator

import pytest

from bench.services.kafka import KafkaCluster
from logstore.feed.kafka import KafkaBroker
from logstore.feed.memory import MemoryBroker
from logstore.feed.port import Broker


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaCluster]:
    with KafkaCluster(1, heap_mb=256) as service:
        yield service


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.process)])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    if request.param == "memory":
        yield MemoryBroker()
        return
    service: KafkaCluster = request.getfixturevalue("kafka")
    made = KafkaBroker(service.address)
    yield made
    await made.close()
