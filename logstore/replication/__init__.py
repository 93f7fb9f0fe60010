"""Replication of one shard: who leads, who is in sync, what is committed (PacificA's shape).

`machine` (the primary's and the member's view, with `doubt` and `handing`) and `follower` (what a
copy does with batches that are pushed to it) are pure; the edge that carries their effects out is
`logstore.node.replica`.
Imports `logstore.meta.records` and `logstore.base`.
"""
