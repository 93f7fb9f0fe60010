from collections.abc import Iterator
from pathlib import Path

import pytest

from logstore.engine.memory import MemoryEngine
from logstore.engine.port import Engine
from logstore.engine.rocks import RocksEngine

SMALL = 1024 * 1024


@pytest.fixture
def rocks(tmp_path: Path) -> Iterator[RocksEngine]:
    engine = RocksEngine.open(tmp_path / "db", write_buffer_bytes=SMALL)
    yield engine
    engine.close()


@pytest.fixture(params=["memory", "rocks"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "memory":
        return MemoryEngine()
    made: RocksEngine = request.getfixturevalue("rocks")
    return made
