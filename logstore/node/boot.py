"""Incarnations (protocol.md, Facts): one survives kill -9 on the same boot, none survives a reboot.

Kept in a file beside the data: the machine's boot id and the incarnation drawn under it.
"""

from pathlib import Path

import msgspec

from logstore.base.env import Env
from logstore.base.errors import StorageError

FILE = "incarnation.json"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Stored(msgspec.Struct, frozen=True):
    boot_id: str
    incarnation: int


def incarnation(data: Path, env: Env) -> int:
    """This process's incarnation: the stored one if the machine did not boot since."""
    boot_id = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
    path = data / FILE
    try:
        if path.exists() and boot_id:
            stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
            if stored.boot_id == boot_id:
                return stored.incarnation
        data.mkdir(parents=True, exist_ok=True)
        drawn = _Stored(boot_id, env.new_id())
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(drawn))
        part.replace(path)
    except (OSError, msgspec.DecodeError) as e:
        raise StorageError(f"{path}: {e}") from e
    return drawn.incarnation
