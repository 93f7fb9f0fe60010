"""The coordinator: what it is in `core`, behind gRPC in `server`; what it does in its rooms.

`cli` is the `logstore` command, `local` a whole cluster on one machine. Imports logstore, sharder
and profiler.
"""
