"""A keyed distributed log whose shards split, merge and move before the load arrives.

The public doors; each loads what it needs at its first use, so that `import logstore` is cheap.
Types of the names are in `__init__.pyi`.
"""

from typing import Any

__all__ = [
    "Ack",
    "Client",
    "Log",
    "Record",
    "Records",
    "Scan",
    "SyncClient",
    "SyncLog",
    "SyncRecords",
    "SyncScan",
    "TlsOptions",
    "connect",
    "connect_sync",
    "errors",
]

_HOMES = {
    "Ack": "logstore.base.types",
    "Record": "logstore.base.types",
    "TlsOptions": "logstore.base.tls",
    "Client": "logstore.client.client",
    "Log": "logstore.client.client",
    "Records": "logstore.client.results",
    "Scan": "logstore.client.client",
    "connect": "logstore.client.client",
    "SyncClient": "logstore.client.sync_client",
    "SyncLog": "logstore.client.sync_client",
    "SyncRecords": "logstore.client.sync_client",
    "SyncScan": "logstore.client.sync_client",
    "connect_sync": "logstore.client.sync_client",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "errors":
        return importlib.import_module("logstore.base.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'logstore' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found
