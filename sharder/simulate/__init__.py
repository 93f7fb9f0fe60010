"""A cluster on paper: capacity, queues, moves that take time and cost load; policies compared.

Pure like the rest of the package: numpy arrays in, numbers out, every die seeded. Our own policies
call `sharder.plan.plan`, the same code that plans for a live cluster.
"""
