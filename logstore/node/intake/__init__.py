"""What comes in is checked here once: its caller, its content, and whether there is capacity.

`callers` checks names, `appends` the records of an append, `admission` counts against the stated
capacity. No I/O. Imports nothing else of the node.
"""
