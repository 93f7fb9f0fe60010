"""What the coordinator's calls answer as JSON: frozen structs, by subject.

`coordinator.calls` names the answer of each call. A service encodes what it answers with `encode`;
the command line, the demo, the bench and tests read it with `decode`. May import records and plain
data of all floors below, no service.
"""
