"""Moves, splits and merges of shards.

`machine` and `ramp` decide (pure), `table` describes each state, `driver` and
`reshape_driver` carry decisions out, `ledger` keeps the records. Imports statistics.
"""
