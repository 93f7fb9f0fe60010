"""What instances report, and what is learned from it.

`reports` checks (pure), `intake` counts and forecasts, `log_clock` keeps each log's time,
`model_trainer` learns in a thread, `liveness` and `presence` say who is heard, `state` is what a
restart keeps. Imports no other room.
"""
