"""Real services of others, started on loopback for tests, benchmarks and demos.

    with kafka() as broker, etcd(members=3) as store:
        use(broker.address, store.address)

Each has free ports and a data folder of its own and is polled until it is ready. It is removed with
its data when the block ends or this process dies in any way. May import nothing of ours.
"""

from bench.services.base import Service, ServiceError
from bench.services.etcd import EtcdCluster, etcd
from bench.services.kafka import KafkaCluster, kafka
from bench.services.nats import NatsServer, nats
from bench.services.redis import RedisServer, redis
from bench.services.runs import sweep

__all__ = [
    "EtcdCluster",
    "KafkaCluster",
    "NatsServer",
    "RedisServer",
    "Service",
    "ServiceError",
    "etcd",
    "kafka",
    "nats",
    "redis",
    "sweep",
]
