"""What holds for every test: its level is a marker; generated examples are the same in every run.

A change is judged by the same examples wherever it is tested; `make properties` looks for new ones.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.services import etcd_address, kafka

__all__ = ["etcd_address", "kafka"]

HERE = Path(__file__).parent
ROWS = HERE / "process" / "rows"
LEVELS = ("unit", "contract", "simulation", "process", "cluster", "compose", "acceptance")

# No deadline: a busy machine makes an example slow, not wrong.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.register_profile("explore", print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the level whose folder it is in; those outside of any start nothing."""
    for item in items:
        if item.path.is_relative_to(HERE):
            folder = item.path.relative_to(HERE).parts[0]
            item.add_marker(folder if folder in LEVELS else "unit")
            if item.path.is_relative_to(ROWS):
                item.add_marker("rows")
