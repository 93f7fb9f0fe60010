"""A keyed distributed log whose shards split, merge and move before the load arrives.

    async with logstore.connect("127.0.0.1:7400") as db:
        log = await db.create_log("orders", partitioner="range", shards=2)
        ack = await log.append(b"user-1", b"12 apples")
        async for record in log.read(key=b"user-1"):
            print(record.offset, record.value)
        table = await log.scan(start=b"user-", end=b"user.").to_arrow()

`connect_sync` is the same without asyncio. Errors are in `logstore.errors`, one class per cause.
Keys and values are bytes, timestamps int64 microseconds since 1970 UTC, offsets count from 0 in
each shard, ranges are half-open.
"""

# Each name loads what it needs at its first use, so that `import logstore` is cheap. The types of
# the names are in `__init__.pyi`.

__version__ = "0.1.0"

__all__ = [
    "Ack",
    "Client",
    "CreateLogOptions",
    "Log",
    "PlaceOptions",
    "Placed",
    "ReadOptions",
    "Record",
    "Records",
    "Results",
    "Scan",
    "SyncClient",
    "SyncLog",
    "SyncRecords",
    "SyncResults",
    "SyncScan",
    "TailOptions",
    "TlsOptions",
    "connect",
    "connect_sync",
    "errors",
]

_HOMES = {
    "Ack": "logstore.base.types",
    "Placed": "logstore.base.types",
    "Record": "logstore.base.types",
    "TlsOptions": "logstore.base.tls",
    "Client": "logstore.client.client",
    "Log": "logstore.client.client",
    "Scan": "logstore.client.client",
    "connect": "logstore.client.client",
    "CreateLogOptions": "logstore.client.options",
    "PlaceOptions": "logstore.client.options",
    "ReadOptions": "logstore.client.options",
    "TailOptions": "logstore.client.options",
    "Records": "logstore.client.results",
    "Results": "logstore.client.results",
    "SyncRecords": "logstore.client.sync_base",
    "SyncResults": "logstore.client.sync_base",
    "SyncClient": "logstore.client.sync_client",
    "SyncLog": "logstore.client.sync_client",
    "SyncScan": "logstore.client.sync_client",
    "connect_sync": "logstore.client.sync_client",
}


def __getattr__(name: str) -> object:
    import importlib

    if name == "errors":
        return importlib.import_module("logstore.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'logstore' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
