"""The Engine on RocksDB. The only place besides `meta.rocks` that imports rocksdict."""

from logstore.engine.rocks.engine import RocksEngine

__all__ = ["RocksEngine"]
