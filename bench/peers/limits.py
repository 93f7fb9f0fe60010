"""The limits of this machine: memory, loopback, disk, RocksDB alone."""

import os
import re
import socket
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from bench.peers.base import PeerError
from bench.services.base import run_to_end
from bench.services.install import program
from bench.services.paths import cache_root
from logstore.base.limits import GROUP_BYTES_MAX

GROUP_BYTES = GROUP_BYTES_MAX  # the most that one group commit writes


def memcpy_mb_per_s(*, size_mb: int = 64, rounds: int = 8) -> float:
    """One thread copying between two buffers larger than the caches."""
    source = np.ones(size_mb << 20, dtype=np.uint8)
    target = np.empty_like(source)
    np.copyto(target, source)
    begin = time.perf_counter()
    for _ in range(rounds):
        np.copyto(target, source)
    return rounds * source.nbytes / (time.perf_counter() - begin) / 1e6


def loopback_mb_per_s(*, total_mb: int = 256, chunk_bytes: int = 256 * 1024) -> float:
    """One TCP stream on loopback between two threads (both release the GIL)."""
    total = total_mb << 20
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()

        def send() -> None:
            chunk = bytes(chunk_bytes)
            with socket.create_connection(address) as out:
                for _ in range(total // chunk_bytes):
                    out.sendall(chunk)

        thread = threading.Thread(target=send)
        begin = time.perf_counter()
        thread.start()
        connection, _ = server.accept()
        got = 0
        buffer = bytearray(chunk_bytes)
        with connection:
            while count := connection.recv_into(buffer):
                got += count
        seconds = time.perf_counter() - begin
        thread.join()
    if got != total // chunk_bytes * chunk_bytes:
        raise PeerError(f"loopback: {got} bytes arrived")
    return got / seconds / 1e6


def _scratch() -> tempfile.TemporaryDirectory[str]:
    """On the disk the services use, not in the temporary folder, which may be memory."""
    cache_root().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=cache_root(), prefix="limits-")


def file_mb_per_s(*, seconds: float, sync: bool, group_bytes: int = GROUP_BYTES) -> float:
    """Append groups to one file, with fdatasync after each or none: the disk's group-commit limit.

    The file is not allocated ahead, like every growing log.
    """
    group = os.urandom(group_bytes)
    written = 0
    with _scratch() as folder:
        handle = os.open(Path(folder) / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            begin = time.perf_counter()
            while time.perf_counter() - begin < seconds and written < 4 << 30:
                if os.write(handle, group) != group_bytes:
                    raise PeerError("the disk took a part of a group only")
                if sync:
                    os.fdatasync(handle)
                written += group_bytes
            took = time.perf_counter() - begin
        finally:
            os.close(handle)
    return written / took / 1e6


def rocksdb_mb_per_s(*, records: int, record_bytes: int = 100, batch: int = 1_000) -> float | None:
    """RocksDB's own db_bench for the same bytes: sequential keys, WAL on, no fsync, blob files.

    None where db_bench is not available (Debian: rocksdb-tools).
    """
    binary = program("db_bench", packages=["rocksdb-tools"])
    if binary is None:
        return None
    with _scratch() as folder:
        output = run_to_end(
            [
                binary, "--benchmarks=fillseq", f"--num={records}", "--key_size=16",
                f"--value_size={record_bytes - 16}", f"--batch_size={batch}", "--disable_wal=0",
                "--sync=0", "--compression_type=none", "--enable_blob_files=1", f"--db={folder}",
            ],
            what="db_bench",
        )  # fmt: skip
    match = re.search(r"fillseq\s*:.*?(\d+) ops/sec", output)
    if match is None:
        raise PeerError(f"cannot read db_bench: {output[-500:]}")
    return int(match.group(1)) * record_bytes / 1e6
