"""The coordinator: its parts in `core`, its gRPC server in `server`, its work in its rooms.

`cli` is the `logstore` command, `local` a whole cluster on one machine. Imports logstore, sharder
and profiler.
"""
