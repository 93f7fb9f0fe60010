"""The feed: committed batches of a shard, in order, for learners (rules F1-F4).

`port` defines a source and a broker; `direct` is the source over gRPC, `topic` one through
a broker (`kafka`, `memory`); `aimd` paces copies. Imports `logstore.engine` and below.
"""
