"""`log create --sample`, `--alphabet`: split keys of a range log without a history."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from coordinator.cli.files import named, read_lines
from logstore.base.errors import InvalidArgumentError
from sharder.alphabet import cuts_of_alphabet, holding_text
from sharder.initial import cuts_of
from sharder.keys import Partitioner, even_ranges

KEYS_MAX = 200_000
"""Keys of a sample that are kept: quantiles of so many are true within a third of a percent."""
LINE_BYTES_MAX = 64 * 1024
"""Limit of one key in a sample."""


def cuts_of_sample(path: Path, shards: int) -> list[bytes]:
    """Split keys that divide the keys of a file, one in each line, into equal parts.

    InvalidArgumentError names the file when it holds too few different keys.
    """
    kept = _kept(line.rstrip(b"\r\n") for _, line in read_lines(path, LINE_BYTES_MAX))
    cuts = cuts_of(((key, 1.0) for key in kept), shards)
    if len(cuts) < shards - 1:
        raise InvalidArgumentError(
            f"--sample {named(path)} divides into {len(cuts) + 1} shards, --shards is {shards}: it"
            f" holds {len(set(kept))} different keys, or a few that come too often"
        )
    return cuts


def _kept(keys: Iterable[bytes]) -> list[bytes]:
    """Of any number of keys at most KEYS_MAX, each as likely as the others; the same each time."""
    found: list[bytes] = []
    rng = np.random.default_rng(0)
    for seen, key in enumerate(filter(None, keys)):
        at = seen if seen < KEYS_MAX else int(rng.integers(seen + 1))
        if at < KEYS_MAX:
            found[at : at + 1] = [key]
    return found


def cuts_of_characters(alphabet: str, shards: int) -> list[bytes]:
    """Split keys that divide words over these characters into equal parts."""
    try:
        return cuts_of_alphabet(alphabet, shards)
    except ValueError as e:
        raise InvalidArgumentError(f"--alphabet is {alphabet[:80]!r}: {e}") from None


def even_notes(shards: int) -> Iterator[str]:
    """What even ranges do to keys of text, if it is worth a word."""
    text = holding_text(even_ranges(Partitioner.RANGE, shards))
    if text == shards:
        return
    yield (
        f"the first two bytes of the keys are cut into {shards} even ranges, so that keys of text"
        f" fall into {text} of them: --sample FILE (keys, one a line) or --alphabet a-z cuts where"
        " keys are, --partitioner hash spreads any keys"
    )
