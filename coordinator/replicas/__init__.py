"""The right number of copies on the right instances.

`repair` replaces lost copies, `drain` empties an instance. Imports catalog, migration, statistics.
"""
