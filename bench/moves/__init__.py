"""What `python -m bench migrate` is made of: the probe, our moves, Kafka's reassignments."""
