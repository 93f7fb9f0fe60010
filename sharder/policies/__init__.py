"""One file per policy. A policy is a function of a Draft and the hot instances (index, crossing).
It accepts operators on the draft, or leaves numbered refusals. It proposes and never acts.
"""
