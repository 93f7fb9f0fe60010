"""The parts of `python -m bench migrate`: the probe, our moves, Kafka's reassignments."""
