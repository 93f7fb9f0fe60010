"""Moves, splits and merges of shards.

`machine` and `ramp` decide (pure), `table` says what each state means, `driver` and
`reshape_driver` carry it out, `ledger` keeps the records. Imports statistics.
"""
