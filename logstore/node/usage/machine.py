"""The machine beside us: idle CPU, the disk with the data, the fastest network card."""

import os
from dataclasses import dataclass
from pathlib import Path

SECTOR_BYTES = 512
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Disk:
    """Since the machine's start: seconds in which it was busy, and bytes read and written."""

    busy_s: float
    moved_bytes: float


def idle_s(cpus: set[int], stat: Path = Path("/proc/stat")) -> float | None:
    """Seconds in which these CPUs had nothing to do, or only what gives way to us (nice)."""
    found, seen = 0.0, 0
    for line in _lines(stat):
        name, *ticks = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cpus:
            _user, nice, _system, idle, waiting = (int(t) for t in ticks[:5])
            found, seen = found + (nice + idle + waiting) / TICKS_PER_S, seen + 1
    return found if seen == len(cpus) and seen else None


def disk_of(path: Path, stat: Path = Path("/proc/diskstats")) -> Disk | None:
    """The block device below `path`; None: there is none that the system knows."""
    device = path.stat().st_dev
    wanted = [str(os.major(device)), str(os.minor(device))]
    for line in _lines(stat):
        fields = line.split()
        if fields[:2] == wanted and len(fields) >= 13:
            moved = (int(fields[5]) + int(fields[9])) * SECTOR_BYTES
            return Disk(int(fields[12]) / 1e3, float(moved))
    return None


def network_bytes_per_s(net: Path = Path("/sys/class/net")) -> float | None:
    """The rate of the fastest card; None: no card states one."""
    rates = []
    for card in net.glob("*/speed"):
        text = "".join(_lines(card)).strip()
        if text.isdecimal() and int(text) > 0:
            rates.append(int(text) * 1e6 / 8)
    return max(rates, default=None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # also a card that is down
        return []
