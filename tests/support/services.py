"""One real etcd and one real Kafka for all tests of a process of pytest, started when one asks."""

import itertools
from collections.abc import Iterator

import pytest

from bench.services.etcd import etcd
from bench.services.kafka import KafkaCluster
from logstore.meta.etcd import EtcdMetadataStore, EtcdTarget

_namespaces = itertools.count()


@pytest.fixture(scope="session")
def etcd_address() -> Iterator[str]:
    """A real etcd of one member."""
    with etcd() as service:
        yield service.address


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaCluster]:
    with KafkaCluster(1, heap_mb=256) as service:
        yield service


def etcd_target(address: str) -> EtcdTarget:
    """With a namespace that no other test uses."""
    return EtcdTarget.of(f"etcd://{address}/test-{next(_namespaces)}")


def etcd_store(address: str) -> EtcdMetadataStore:
    return EtcdMetadataStore(etcd_target(address))
