"""What holds for every test: generated examples are the same in every run.

A change is judged by the same examples wherever it is tested; `make properties` looks for new ones.
"""

import os

import pytest
from hypothesis import settings

# No deadline: a busy machine makes an example slow, not wrong.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.register_profile("explore", print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, then those with real processes: no worker is left with a long
    file at the end."""
    first = {item.path for item in items if item.get_closest_marker("slow")}
    second = {item.path for item in items if item.get_closest_marker("process")}
    items.sort(key=lambda item: 0 if item.path in first else 1 if item.path in second else 2)
