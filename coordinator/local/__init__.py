"""A whole cluster of real processes on one machine: for `logstore up`, demo and tests."""
