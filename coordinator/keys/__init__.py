"""Keys of balanced logs: `tokens` gives each key its virtual shard, `service` serves the mapping.

Imports catalog, planning and statistics.
"""
