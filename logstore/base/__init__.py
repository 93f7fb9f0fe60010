"""Types, errors, limits, configuration and the edge of clock, dice and ids.

Imports nothing of ours but `sharder.keys`.
"""
