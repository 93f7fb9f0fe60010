"""Logs, instances and the copies on their disks, by name.

`catalog` changes, `listing` reads, `copies` compares the map with the disks, `retiring` forgets an
instance, `replica_placement` says where the next copy goes (pure). Imports statistics.
"""
