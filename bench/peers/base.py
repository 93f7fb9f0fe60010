"""The port of every compared system."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

from bench.workload.records import RecordSet


class PeerError(RuntimeError):
    """A system lost, doubled or changed a record, or its tool's output cannot be read."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a compared system and why it is the best sensible one."""

    name: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Result:
    """One timed run. `seconds` covers encoding, sending and every ack, nothing else.

    `latency_ms` has p50, p95, p99, p999 where the run measured them. `digest` is the sum over all
    records as `digest_rows` makes it, None where the system's own tool hides the records (then
    only counts are checked).
    """

    records: int
    bytes: int
    seconds: float
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    digest: int | None = None

    @property
    def records_per_s(self) -> float:
        return self.records / self.seconds

    @property
    def mb_per_s(self) -> float:
        return self.bytes / self.seconds / 1e6


class Peer(Protocol):
    """A system under comparison. Entered once; then `append` and `consume` any number of times.

    Each `append` goes to a fresh stream (topic, stream, log), and the following `consume` reads
    that stream from its start to its end.
    """

    @property
    def name(self) -> str: ...

    @property
    def durability(self) -> str:
        """What an ack means: "os" (page cache) or "fsync"."""

    @property
    def processes(self) -> int:
        """Of the system and of its client, together."""

    @property
    def settings(self) -> tuple[Setting, ...]: ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...

    async def append(self, records: RecordSet) -> Result:
        """Append all, wait for all acks. PeerError if one is missing."""

    async def consume(self, records: RecordSet) -> Result:
        """Read back what the last `append` wrote, as the client's own records."""


def check_same(peer: str, wrote: RecordSet, read: Result) -> None:
    """Counts, and digests where there is one: nothing lost, doubled or changed."""
    if read.records != wrote.count:
        raise PeerError(f"{peer}: appended {wrote.count} records, read {read.records}")
    if read.digest is not None and read.digest != wrote.digest():
        raise PeerError(f"{peer}: the records read are not those appended")


_PERCENTILE = re.compile(r"([\d.]+) ms (\d+(?:\.\d+)?)th")


def percentiles_of(line: str) -> dict[str, float]:
    """`12 ms 99th, 14 ms 99.9th` as {"p99": 12.0, "p999": 14.0}."""
    return {f"p{name.replace('.', '')}": float(ms) for ms, name in _PERCENTILE.findall(line)}
