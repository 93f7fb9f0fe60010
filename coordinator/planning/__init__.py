"""From records, statistics and forecasts to a plan and the moves that it starts.

`views` makes what the planner sees (pure), `loop` plans and starts, `notes` are its rounds,
`announcements` what people know of the future. Imports catalog, migration and statistics.
"""
