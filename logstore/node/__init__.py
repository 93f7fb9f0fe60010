"""One instance: its copies of shards and how they are served, replicated and kept whole.

Carries the effects of the pure replication machine out. Imports all of logstore but the client.
"""
