"""How a copy handles batches that its primary sends (P5), or that a feed brings (F2). Pure.

The copy compares batch by batch, keeps equal ones, truncates at the first difference (never below
its high watermark), and appends the rest. It acks only what it matched in this epoch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from logstore.base.errors import DivergedError, OutOfRangeError
from logstore.base.types import Position
from logstore.engine.batch import StoredBatch


@dataclass(frozen=True, slots=True)
class Apply:
    """First truncate the log at `truncate_to` (if given), then write `batches`; it matches to
    `end`."""

    truncate_to: int | None
    batches: tuple[StoredBatch, ...]
    end: Position


def plan_apply(
    incoming: Sequence[StoredBatch],
    own_end: Position,
    high_watermark: int,
    position_at: Callable[[int], Position | None],
) -> Apply:
    """How `incoming` (consecutive batches) joins a log that ends at `own_end`.

    `position_at(offset)` is the chain of this copy where a batch ends at `offset`, else None.
    Raises OutOfRangeError for a gap, DivergedError when the difference is below the high watermark.
    """
    if not incoming:
        return Apply(None, (), own_end)
    first = incoming[0]
    before = Position(first.base_offset, first.chain_before)
    if first.base_offset > own_end.end:
        raise OutOfRangeError(
            f"batch starts at offset {first.base_offset}, this copy ends at {own_end.end}"
        )
    if position_at(first.base_offset) != before:
        raise DivergedError(
            f"this copy's chain at offset {first.base_offset} differs from the sender's"
        )
    for index, batch in enumerate(incoming):
        after = Position(batch.end, batch.chain_after)
        if batch.end <= own_end.end and position_at(batch.end) == after:
            continue
        cut = batch.base_offset if batch.base_offset < own_end.end else None
        if cut is not None and cut < high_watermark:
            raise DivergedError(
                f"batch at offset {cut} differs below the high watermark {high_watermark}"
            )
        rest = tuple(incoming[index:])
        return Apply(cut, rest, Position(rest[-1].end, rest[-1].chain_after))
    last = incoming[-1]
    return Apply(None, (), Position(last.end, last.chain_after))


def plan_probe(
    primary_end: Position,
    own_end: Position,
    high_watermark: int,
    matched_end: int,
    position_at: Callable[[int], Position | None],
) -> int | None:
    """Where to truncate the log when the primary of this epoch says that its own ends at
    `primary_end`.

    What lies above its end was never committed: the primary was in sync and does not have it. A
    delayed probe must not truncate what matched later in the same epoch. None: keep all.
    """
    if own_end.end <= primary_end.end or primary_end.end < max(high_watermark, matched_end):
        return None
    if position_at(primary_end.end) != primary_end:
        return None
    return primary_end.end
