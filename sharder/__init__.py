"""Where shards are and where they should be: keys, shard map, ring, view, risk, plan.

Everything is pure: plain data in, plain data out. `now` and seeds are arguments, so the same view
gives the same plan to the byte. May import numpy, msgspec, xxhash and the profiler's types.
"""
