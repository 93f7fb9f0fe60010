"""A test for each requirement row, on real processes, by what a stranger would run."""
