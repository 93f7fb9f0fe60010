"""Benches, workloads and peers: this store compared with Kafka, NATS, Redis and machine limits.

The top layer: only tests import it.
"""
