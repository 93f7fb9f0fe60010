"""One file per invariant I1-I9 (design.md, section 9): pure functions over what was recorded.

Simulation, cluster and compose tests share them. Each gives `check(...) -> list[Violation]`.
"""
