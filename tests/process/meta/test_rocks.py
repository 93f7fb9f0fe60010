"""What only the embedded store promises: restarts, kill -9, its directory's lock."""

import asyncio
import sys
from pathlib import Path

import pytest

from logstore.base.errors import ConfigError, ConflictError, DirectoryInUseError, UnavailableError
from logstore.meta.port import Compare, Delete, Put
from logstore.meta.rocks import RocksMetadataStore


async def test_data_and_revisions_survive_a_restart(tmp_path: Path) -> None:
    store = RocksMetadataStore(tmp_path)
    await store.txn([], [Put("/a", b"1"), Put("/b", b"2")])
    await store.txn([], [Delete("/b")])
    before = await store.range("")
    await store.close()
    store = RocksMetadataStore(tmp_path)
    assert await store.range("") == before
    assert (await store.txn([Compare("/a", 1)], [Put("/a", b"2")])).revision == 3
    await store.close()


async def test_a_watch_from_before_a_restart_must_range_again(tmp_path: Path) -> None:
    store = RocksMetadataStore(tmp_path)
    for value in (b"1", b"2"):
        await store.txn([], [Put("/a", value)])
    await store.close()
    store = RocksMetadataStore(tmp_path)
    with pytest.raises(ConflictError):
        await anext(store.watch("/", 1))
    await store.txn([], [Put("/a", b"3")])
    (event,) = await anext(store.watch("/", 2))
    assert event.value == b"3"
    await store.close()


async def test_a_second_opener_is_refused_by_directory(tmp_path: Path) -> None:
    store = RocksMetadataStore(tmp_path)
    with pytest.raises(DirectoryInUseError, match=str(tmp_path)):
        RocksMetadataStore(tmp_path)
    await store.close()
    again = RocksMetadataStore(tmp_path)
    await again.close()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        RocksMetadataStore(tmp_path / "file" / "below")


async def test_a_closed_store_is_unavailable(tmp_path: Path) -> None:
    store = RocksMetadataStore(tmp_path)
    await store.close()
    await store.close()
    with pytest.raises(UnavailableError):
        await store.get("/a")


_WRITER = """
import asyncio, pathlib, sys
from logstore.meta.port import Put
from logstore.meta.rocks import RocksMetadataStore
async def main():
    store = RocksMetadataStore(pathlib.Path(sys.argv[1]))
    i = 0
    while True:
        i += 1
        await store.txn([], [Put("/a", b"%d" % i), Put("/b", b"%d" % i)])
        print(i, flush=True)
asyncio.run(main())
"""


async def test_kill_dash_nine_loses_no_acked_transaction(tmp_path: Path) -> None:
    acked = 0
    for stop_after in (1, 7, 40):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _WRITER, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        assert writer.stdout is not None
        for _ in range(stop_after):
            acked = int(await writer.stdout.readline())
        writer.kill()
        await writer.wait()
        store = RocksMetadataStore(tmp_path)
        a, b = await store.get("/a"), await store.get("/b")
        assert a is not None
        assert b is not None
        assert a.value == b.value
        assert int(a.value) >= acked
        assert a.revision == b.revision == (await store.range("")).revision
        await store.close()
