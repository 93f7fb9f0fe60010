"""Logs, instances and the copies on their disks, by name.

`catalog` changes, `listing` reads, `copies` compares the map with the disks, `retiring` removes an
instance for good, `replica_placement` chooses the instance of the next copy (pure). Imports
statistics.
"""
