"""What this process uses of the machine, and what is left of it: the inputs of capacity.

`process` reads it all, `control_group` the limits that a container or systemd set, `machine` the
CPU, disk and network beside us, `loop_lag` how late the event loop is. Imports nothing of the node.
"""
