"""Cells: slices of the shard space, each with one leader.

`assignment` computes the owners (pure), `leadership` campaigns for cells, `cell` is the leader's
work, `forwarding` passes calls to the leader, `listing` shows who leads what. A cell is made of all
the other rooms.
"""
