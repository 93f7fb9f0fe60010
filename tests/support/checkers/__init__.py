"""One file per invariant of docs/rules.md (I1-I9, I13): pure functions over what was recorded.

Simulation, cluster and compose tests share them. Each gives `check(...) -> list[Violation]`.
"""
