"""The feed: committed batches of a shard, in order, to whoever copies it (protocol.md F1-F4).

`port` says what a source gives; `direct` is the source over gRPC. Imports `logstore.engine` down.
"""
