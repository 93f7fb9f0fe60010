"""Cells: slices of the shard space, each with one leader.

`assignment` says who leads what (pure), `leadership` stands for it, `cell` is what a leader runs,
`forwarding` passes calls to the leader. A cell is made of all the other rooms.
"""
