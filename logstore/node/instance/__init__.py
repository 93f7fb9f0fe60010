"""The instance as a whole: who it is, which copies it holds, and how it stops.

`instance` owns all, a `replica` one copy and its parts; `identity`, `claim` and `registration` keep
its name, `copies` what is on the disk, `metadata_view` the metadata, `reporting` sends reports,
`graceful_stop` hands over. Imports all rooms but rpc.
"""
