"""Whether the bytes of a copy are whole: damage noticed, looked for, and found by comparison.

`integrity` handles noticed damage, `scrub` looks for cold rot, `digests` compares two copies.
Imports resources.
"""
