"""Replication of one shard: which copy leads, which are in sync, what is committed (PacificA).

`machine` (the view of the primary and of a member, with `doubt` and `handing`) and `follower` (how
a copy handles batches that are sent to it) are pure; `logstore.node.instance.replica` carries
their effects out.
Imports `logstore.meta.records` and `logstore.base`.
"""
