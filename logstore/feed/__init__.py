"""The feed: committed batches of a shard, in order, to whoever copies it (rules F1-F4).

`port` says what a source and a broker give; `direct` is the source over gRPC, `topic` one through
a broker (`kafka`, `memory`); `aimd` paces copies. Imports `logstore.engine` down.
"""
