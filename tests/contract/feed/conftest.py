"""The brokers under test: the twin in memory and a real Kafka."""

from collections.abc import AsyncIterator

import pytest

from bench.services.kafka import KafkaCluster
from logstore.feed.kafka import KafkaBroker
from logstore.feed.memory import MemoryBroker
from logstore.feed.port import Broker


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.process)])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    if request.param == "memory":
        yield MemoryBroker()
        return
    service: KafkaCluster = request.getfixturevalue("kafka")
    made = KafkaBroker(service.address)
    yield made
    await made.close()
