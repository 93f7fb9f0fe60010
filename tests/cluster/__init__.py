"""Real processes and a real etcd on network namespaces, with faults, recorded clients and a judge.

`make test-cluster` and `make soak-cluster` start it through `__main__`, which puts everything into
namespaces of its own (processes, network, mounts), so the kernel removes all of it when the run
ends, in whatever way.
"""
