"""From records, statistics and forecasts to a plan and the moves that it starts.

`views` makes the planner's view (pure), `loop` plans and starts, `notes` are its rounds,
`announcements` are events and profiles. Imports catalog, migration and statistics.
"""
