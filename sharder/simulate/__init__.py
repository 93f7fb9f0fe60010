"""A simulated cluster: capacity, queues, moves that take time and add load; compares policies.

Pure like the rest of the package: numpy arrays in, numbers out, all randomness seeded. The
planner's policies call `sharder.plan.plan`, the same code that plans for a live cluster.
"""
