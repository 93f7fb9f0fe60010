"""What holds for every test: generated examples are the same in every run.

A change is judged by the same examples wherever it is tested; `make properties` looks for new ones.
"""

import os

from hypothesis import settings

# No deadline: a busy machine makes an example slow, not wrong.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.register_profile("explore", print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
