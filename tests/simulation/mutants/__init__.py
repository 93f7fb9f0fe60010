"""Does the simulator see? Deliberate faults as data (`mutant.py`), one module a theme.

`catalog.py` holds them all, `caught.json` the seed that catches each; `python -m` runs them.
"""
