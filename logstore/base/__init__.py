"""Types, errors, limits, configuration, and the process's clock, random generator and ids.

Imports only `sharder.keys` of ours.
"""
