"""Reports of instances, and the models that are trained on them.

`reports` checks (pure), `intake` counts and forecasts, `log_clock` keeps each log's time,
`model_trainer` learns in a thread, `liveness` and `presence` say which instances are alive, `state`
is saved over a restart. Imports no other room.
"""
