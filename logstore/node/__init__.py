"""One instance: its copies of shards, and their serving, replication and repair.

Carries the effects of the pure replication machine out. Imports all of logstore but the client.
"""
