"""Micro-benchmarks of the hot paths, by pytest-benchmark: `make bench-micro`."""
