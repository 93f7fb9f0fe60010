"""Benches, workloads and peers: ours beside Kafka, NATS, Redis and the machine's own limits.

The top of the house: nothing imports it but tests.
"""
