"""One instance: its copies of shards, and their serving, replication and repair.

Carries the effects of the pure replication machine out. The ways through it are its folders: rpc
calls instance, which makes the parts of copies in appends, publish and replication; these, and
reads, know neither it nor each other. Imports all of logstore but the client.
"""
