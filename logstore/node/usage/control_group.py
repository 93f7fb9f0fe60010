"""The limits of our control groups, version 1 and 2: quotas of CPU, and memory.

A group's limit binds all groups in it, so each one from ours up to the root of the mount counts.
The groups are looked up each time: a process may be put into another one while it runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNLIMITED_BYTES = 1 << 60
"""Version 1 says "no limit" with a number above this."""


@dataclass(frozen=True, slots=True)
class CpuGroup:
    """A group with a quota: `cores`; what all in it used (None: not known), and how long it was
    held back, in seconds since its begin."""

    path: str
    cores: float
    used_s: float | None
    throttled_s: float


@dataclass(frozen=True, slots=True)
class _Mount:
    version: int
    controllers: frozenset[str]
    root: str
    point: Path


class ControlGroups:
    """Of this process. A system without control groups has no limits."""

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._proc = proc
        self._mounts = list(_mounts(_text(proc / "mountinfo")))

    def cpu(self) -> list[CpuGroup]:
        """The groups that bound our CPU, ours first."""
        of = self._paths()
        used = {folder.name: folder for folder in self._folders("cpuacct", of)}
        found = []
        for version, folder in self._all("cpu", of):
            quota = _quota(version, folder)
            if quota is None:
                continue
            stat = _pairs(_text(folder / "cpu.stat"))
            if version == 2:
                used_s = _seconds(stat.get("usage_usec"), 1e6)
                held_s = _seconds(stat.get("throttled_usec"), 1e6)
            else:
                beside = folder if (folder / "cpuacct.usage").exists() else used.get(folder.name)
                text = _text(beside / "cpuacct.usage").strip() if beside is not None else ""
                used_s = _seconds(text, 1e9)
                held_s = _seconds(stat.get("throttled_time"), 1e9)
            found.append(CpuGroup(str(folder), quota, used_s, held_s or 0.0))
        return found

    def memory_free_bytes(self) -> float | None:
        """What our groups may still take, without what the kernel can drop; None: no limit."""
        left = []
        for version, folder in self._all("memory", self._paths()):
            names = ("memory.max", "memory.current", "inactive_file")
            if version == 1:
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            limit, used = (_text(folder / name).strip() for name in names[:2])
            if not (limit.isdecimal() and used.isdecimal()) or int(limit) >= UNLIMITED_BYTES:
                continue
            dropped = int(_pairs(_text(folder / "memory.stat")).get(names[2], "0"))
            left.append(max(0.0, float(int(limit) - int(used) + dropped)))
        return min(left, default=None)

    def _paths(self) -> dict[str, str]:
        """Controller ("" for version 2) -> our path in its hierarchy."""
        found = {}
        for line in _text(self._proc / "cgroup").splitlines():
            _, _, rest = line.partition(":")
            names, _, path = rest.partition(":")
            for name in names.split(","):
                found[name] = path
        return found

    def _all(self, controller: str, of: dict[str, str]) -> Iterator[tuple[int, Path]]:
        for version in (1, 2):
            for folder in self._folders(controller, of, version):
                yield version, folder

    def _folders(self, controller: str, of: dict[str, str], version: int = 1) -> Iterator[Path]:
        """Ours, then those around it up to the mount."""
        path = of.get(controller if version == 1 else "")
        if path is None:
            return
        for mount in self._mounts:
            if mount.version != version or (version == 1 and controller not in mount.controllers):
                continue
            inside = path
            if mount.root != "/" and (path + "/").startswith(mount.root + "/"):
                inside = path[len(mount.root) :]
            folder = mount.point / inside.lstrip("/")
            if ".." in folder.parts or not folder.is_dir():
                folder = mount.point  # a container that sees only its own groups
            yield folder
            while folder != mount.point:
                folder = folder.parent
                yield folder
            return


def _mounts(text: str) -> Iterator[_Mount]:
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        yield _Mount(version, frozenset(kind[2].split(",")), fields[3], Path(fields[4]))


def _quota(version: int, folder: Path) -> float | None:
    """Cores; None: no limit."""
    if version == 2:
        quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    else:
        quota = _text(folder / "cpu.cfs_quota_us").strip()
        period = _text(folder / "cpu.cfs_period_us").strip()
    if not (quota.isdecimal() and period.isdecimal()) or int(quota) <= 0 or int(period) <= 0:
        return None
    return int(quota) / int(period)


def _seconds(text: str | None, unit: float) -> float | None:
    return int(text) / unit if text is not None and text.isdecimal() else None


def _pairs(text: str) -> dict[str, str]:
    return {key: value for key, _, value in (ln.partition(" ") for ln in text.splitlines())}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
