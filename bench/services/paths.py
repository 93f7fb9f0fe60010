"""Folders of downloads and data, and free ports."""

import os
import random
import socket
from pathlib import Path

PORT_FIRST = 20_000
PORT_LAST = 32_000  # below Linux's ephemeral range, so that no outgoing connection takes one


def project_root() -> Path | None:
    """The checkout this package lies in, or None when it is installed elsewhere."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else None


def cache_root() -> Path:
    """`LOGSTORE_CACHE`, else `.cache` of the checkout, else the user's cache folder.

    Data folders lie here too and not in the temporary folder: that may be memory, where an fsync
    costs nothing and every figure about durability would lie.
    """
    given = os.environ.get("LOGSTORE_CACHE")
    if given:
        return Path(given)
    root = project_root()
    if root is not None:
        return root / ".cache"
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "logstore"


def free_ports(count: int) -> list[int]:
    """`count` distinct loopback ports that could be bound a moment ago."""
    held: list[socket.socket] = []
    ports: list[int] = []
    dice = random.SystemRandom()
    try:
        while len(ports) < count:
            port = dice.randrange(PORT_FIRST, PORT_LAST)
            candidate = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            held.append(candidate)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
    finally:
        for candidate in held:
            candidate.close()
    return ports
