"""The JSON answers of the coordinator's calls: frozen structs, by subject.

`coordinator.calls` names the answer of each call. A service encodes its answer with `encode`;
the command line, the demo, the bench and tests read it with `decode`. May import records and plain
data of all lower packages, no service.
"""
