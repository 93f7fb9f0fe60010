"""`log create --from-history`: split keys and placement from recorded accesses."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from coordinator.answers.catalog import InstanceRow
from coordinator.cli.files import headed_rows, named, weight_of
from coordinator.cli.times import Tell, TimeReader, no_notes
from logstore.base.errors import InvalidArgumentError, UnavailableError
from sharder.initial import InitialShard, heatmap_of, initial_shards
from sharder.keys import Partitioner, routing_key

SLOTS = 168
"""Parts of time that the history is divided into; placement keeps the load of each part low."""
SHARDS_PER_INSTANCE = 4
"""Without --shards: enough to move one at a time."""


def shards_from_history(
    path: Path,
    partitioner: str,
    shards: int | None,
    instances: Sequence[InstanceRow],
    tell: Tell = no_notes,
) -> list[InitialShard]:
    """The shards of a new log. `path`: a CSV (.gz too) or a Parquet file with columns `time_s` and
    `key`, in any order; with `weight` a row stands for so many accesses. `instances`: rows of
    ListInstances. `tell`: takes notes about the times.

    InvalidArgumentError names the file, the line and what is wrong with it.
    """
    try:
        kind = Partitioner(partitioner)
    except ValueError:
        raise InvalidArgumentError(
            f"partitioner is {partitioner!r}, expected range or hash"
        ) from None
    if kind is Partitioner.BALANCED:
        raise InvalidArgumentError("--from-history is for range and hash logs: the keys of balanced"
                                   " ones are placed when they are first written")  # fmt: skip
    living = [i for i in instances if i.alive and not i.draining]
    if not living:
        raise UnavailableError("no instance is alive, a log needs at least 1")
    known = [i.capacity.ops_per_s for i in living if i.capacity.ops_per_s is not None]
    usual = max(known, default=1.0)
    capacities = {i.instance: i.capacity.ops_per_s or usual for i in living}
    found = sorted(_accesses(path, kind, tell))
    span_s = max(found[-1][0] - found[0][0], 1e-9) if found else 1.0
    slot_s = span_s / SLOTS
    accesses = (
        (key, weight, min(int((at - found[0][0]) / slot_s), SLOTS - 1)) for at, key, weight in found
    )
    try:
        return initial_shards(
            heatmap_of(accesses, SLOTS), shards or SHARDS_PER_INSTANCE * len(living), capacities
        )
    except ValueError as e:
        raise InvalidArgumentError(f"{path}: {e}") from None


def _accesses(path: Path, kind: Partitioner, tell: Tell) -> Iterator[tuple[float, bytes, float]]:
    """(Unix seconds, routing key, accesses that it stands for) in the file's order."""
    reader = TimeReader()
    for number, (time_s, key, weight) in headed_rows(path, ("time_s", "key"), ("weight",)):
        line = f"{named(path)}, line {number}"
        at = reader.seconds(f"{line}: time_s", time_s)
        yield at, routing_key(kind, os.fsencode(key)), weight_of(line, weight)
    reader.say(tell, named(path))
