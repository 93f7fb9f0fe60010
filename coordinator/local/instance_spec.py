"""What an instance of `logstore up` is: its name, tier, zone and capacity.

`up --instance name=fast,tier=fast,zone=b,ops=500` says it; `up.json` keeps it for the next start.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from logstore.base.errors import ConfigError, InvalidArgumentError, LogstoreError
from logstore.base.limits import PLACE_BYTES_MAX
from logstore.base.names import checked_name
from logstore.node.instance.identity import IdentityFile

NAME = re.compile(r"[a-zA-Z0-9._-]{1,64}")
TAKEN = re.compile(r"coordinator(-\d+)?|logs|lock|\.+|up\.json.*")
"""Other entries of the folder of `up`."""
NUMBERS_MAX = 1e15
FIELDS = ("name", "tier", "zone", "ops", "bytes", "stored")


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """None: as the instance's own default, and capacity as it finds out itself."""

    name: str
    tier: str | None = None
    zone: str | None = None
    ops: float | None = None
    """Operations per second."""
    bytes: float | None = None
    """Bytes per second."""
    stored: int | None = None
    """Bytes that may be stored."""

    def settings(self) -> dict[str, object]:
        """What of it is said, as settings of the instance."""
        given = {
            "tier": self.tier,
            "zone": self.zone,
            "ops_per_s_max": self.ops,
            "bytes_per_s_max": self.bytes,
            "stored_bytes_max": self.stored,
        }
        return {name: value for name, value in given.items() if value is not None}


def parse_spec(text: str, number: int) -> InstanceSpec:
    """`name=fast,tier=fast,zone=b,ops=500`; each part may be left out. `number`: of the instance,
    from 1, for its name. ConfigError names the part, its value and what it may be."""
    given: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or name not in FIELDS:
            raise ConfigError(
                f"--instance has {part[:80]!r}, its parts are {', '.join(f'{f}=…' for f in FIELDS)}"
            )
        if name in given:
            raise ConfigError(f"--instance gives {name} twice, as {given[name]} and as {value}")
        given[name] = value
    return InstanceSpec(
        name=_checked(given.get("name", f"instance-{number}")),
        tier=_place("tier", given.get("tier")),
        zone=_place("zone", given.get("zone")),
        ops=_number("ops", given.get("ops")),
        bytes=_number("bytes", given.get("bytes")),
        stored=_whole(_number("stored", given.get("stored"))),
    )


def specs_of(texts: Sequence[str], kept: Sequence[InstanceSpec], count: int) -> list[InstanceSpec]:
    """The instances to start: those that are given now, or else were at the last start, and as many
    plain ones after them as come to `count`. ConfigError: a name is there twice, or too many."""
    found = [parse_spec(text, n) for n, text in enumerate(texts, 1)] or list(kept)[:count]
    if len(found) > count:
        raise ConfigError(f"--instance is given {len(found)} times, --instances is {count}")
    names = {spec.name for spec in found}
    if len(names) < len(found):
        twice = next(s.name for s in found if [x.name for x in found].count(s.name) > 1)
        raise ConfigError(f"--instance gives the name {twice} twice")
    free = (n for n in range(1, 2 * count + 1) if f"instance-{n}" not in names)
    return found + [InstanceSpec(f"instance-{next(free)}") for _ in range(count - len(found))]


def with_default_capacity(
    specs: Sequence[InstanceSpec], ops: float | None, bytes_: float | None
) -> list[InstanceSpec]:
    """`up --ops-per-s`, `--bytes-per-s`: for the instances that do not say."""
    return [
        replace(
            s,
            ops=ops if s.ops is None else s.ops,
            bytes=bytes_ if s.bytes is None else s.bytes,
        )
        for s in specs
    ]


def instance_folders(data: Path) -> list[Path]:
    """The folders of instances below a folder of `up`: `instance-N`, and those that are named as
    the identity in them. A copy under another name is a person's own."""
    if not data.is_dir():
        return []
    found = [
        p
        for p in data.iterdir()
        if p.is_dir() and (p.name.startswith("instance-") or _owner(p) == p.name)
    ]
    return sorted(found, key=lambda p: (len(p.name), p.name))


def _owner(folder: Path) -> str:
    """The instance whose folder it is; empty where that cannot be read."""
    try:
        found = IdentityFile(folder).load()
    except LogstoreError:
        return ""
    return found.instance if found is not None else ""


def _checked(name: str) -> str:
    if not NAME.fullmatch(name) or TAKEN.fullmatch(name):
        raise ConfigError(
            f"--instance: name is {name[:80]!r}, it must be 1 to 64 of a-z, A-Z, 0-9, '.', '_' and"
            " '-', and not coordinator or logs"
        )
    return name


def _place(what: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return checked_name(what, text, PLACE_BYTES_MAX)
    except InvalidArgumentError as e:
        raise ConfigError(f"--instance: {e.message}") from None


def _number(what: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= NUMBERS_MAX:
        raise ConfigError(
            f"--instance: {what} is {text[:80]!r}, it must be a number above 0 and at most 1e15"
        )
    return value


def _whole(value: float | None) -> int | None:
    return None if value is None else max(1, round(value))
