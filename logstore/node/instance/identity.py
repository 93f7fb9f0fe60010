"""The identity of a data directory (design note 0008): kept beside the data, compared first.

The boot id is the machine's: an incarnation survives kill -9 on the same boot, and no reboot
(P6). The witness names the file that the directory's owner holds locked; a copy of
the directory has another one.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from logstore.base.env import Env
from logstore.base.errors import StorageError, WrongClusterError

FILE = "identity.json"
BEFORE_FILE = "incarnation.json"
"""The content of directories before they knew their cluster."""
LOCK = "IN_USE"
"""The engine's own lock file: the process that has the directory open holds it."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Identity(msgspec.Struct, frozen=True):
    """The identity that a data directory stores.

    `process`: the number that was registered last; `drawn`: the next one, written here before it is
    registered. (`generation`, `revision`): the newest point of the metadata that was acted on.
    """

    instance: str
    cluster: str = ""
    boot_id: str = ""
    incarnation: int = 0
    process: int = 0
    drawn: int = 0
    generation: str = ""
    revision: int = 0

    def knows(self, process: int) -> bool:
        """Whether this directory was the last to register."""
        return process in (self.process, self.drawn) and process != 0


class IdentityStore(Protocol):
    """The file of one identity; the simulator has its own."""

    @property
    def witness(self) -> str:
        """Names the lock that the directory's owner holds, on this boot of this machine."""
        ...

    @property
    def boot_id(self) -> str: ...

    def load(self) -> Identity | None:
        """None in an unused directory. `StorageError` when it cannot be read."""
        ...

    def save(self, identity: Identity) -> None:
        """Replace it; it is on the disk at return."""
        ...


class _Before(msgspec.Struct, frozen=True):
    boot_id: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class IdentityFile:
    """The identity of the data directory `data`."""

    data: Path

    @property
    def boot_id(self) -> str:
        return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""

    @property
    def witness(self) -> str:
        try:
            status = (self.data / LOCK).stat()
        except OSError:
            return ""
        return f"{self.boot_id}:{status.st_dev}:{status.st_ino}" if self.boot_id else ""

    def load(self) -> Identity | None:
        path, before = self.data / FILE, self.data / BEFORE_FILE
        try:
            if path.exists():
                return msgspec.json.decode(path.read_bytes(), type=Identity)
            if before.exists():
                old = msgspec.json.decode(before.read_bytes(), type=_Before)
                return Identity("", boot_id=old.boot_id, incarnation=old.incarnation)
        except (OSError, msgspec.DecodeError) as e:
            raise StorageError(f"{path}: {e}") from e
        return None

    def save(self, identity: Identity) -> None:
        path = self.data / FILE
        part = path.with_suffix(".part")
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as handle:
                handle.write(msgspec.json.encode(identity))
                handle.flush()
                os.fsync(handle.fileno())
            part.replace(path)
            (self.data / BEFORE_FILE).unlink(missing_ok=True)
        except OSError as e:
            raise StorageError(f"{path}: {e}") from e


def begin(kept: IdentityStore, instance: str, env: Env) -> Identity:
    """The directory's identity for this start, with the incarnation of this boot; nothing is
    written. `WrongClusterError` when the directory is another instance's."""
    found = kept.load()
    if found is not None and found.instance not in ("", instance):
        raise WrongClusterError(
            f"the data directory belongs to instance {found.instance!r} of cluster "
            f"{found.cluster or '(unknown)'}; instance is {instance!r}"
        )
    if found is None:
        return Identity(instance, boot_id=kept.boot_id, incarnation=env.new_id())
    found = msgspec.structs.replace(found, instance=instance)
    if not found.boot_id or found.boot_id != kept.boot_id:
        return msgspec.structs.replace(found, boot_id=kept.boot_id, incarnation=env.new_id())
    return found


def accept(data: Path, cluster: str, generation: str, revision: int) -> None:
    """Let the directory accept a generation by hand: earlier ones are settled.

    `WrongClusterError` when it belongs to another cluster; `StorageError` for an unused directory.
    """
    kept = IdentityFile(data)
    found = kept.load()
    if found is None:
        raise StorageError(f"{data}: no instance has used this directory yet")
    if found.cluster not in ("", cluster):
        raise WrongClusterError(
            f"{data} belongs to cluster {found.cluster}, the generation is of cluster {cluster}"
        )
    kept.save(
        msgspec.structs.replace(found, cluster=cluster, generation=generation, revision=revision)
    )
