"""The broker that a configuration names."""

from logstore.base.errors import ConfigError
from logstore.feed.port import Broker


def open_broker(servers: str | None) -> Broker | None:
    """A Kafka at `servers` (host:port,…), None without a name. It is not contacted yet.

    ConfigError when the Kafka client is not installed.
    """
    if not servers:
        return None
    try:
        from logstore.feed.kafka import KafkaBroker
    except ModuleNotFoundError as e:
        if e.name != "aiokafka":
            raise
        raise ConfigError(
            f"kafka is {servers!r}, but the client is missing: install logstore[kafka]"
        ) from None
    return KafkaBroker(servers)
