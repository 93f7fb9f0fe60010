"""Deterministic simulation: the real instances, clients and migration driver in virtual time.

`python -m tests.simulation --seed N` runs one seed. Only the ports are simulated: the event loop's
clock, the network under gRPC, the disk under the Engine, and the metadata store. docs/simulation.md
tells how.
"""
