"""The counts of an instance: operations by kind and key, on the time line of each log.

`statistics_reporter` counts on the hot path, `event_lines` keeps the logs' own times,
`operation_counters` count since the start. Imports config and intake.
"""
