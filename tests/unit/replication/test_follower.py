"""What a copy does with pushed batches (P5): keep what is equal, cut at the first difference."""

import pyarrow as pa
import pytest

from logstore.base.errors import DivergedError, OutOfRangeError
from logstore.base.types import CHAIN_ZERO, Position
from logstore.engine.batch import StoredBatch, build, encode_payload, schema_of
from logstore.replication.follower import plan_apply, plan_probe


def chain_of(*contents: bytes, base: int = 0, before: bytes = CHAIN_ZERO) -> list[StoredBatch]:
    """One stored batch of two records for each content."""
    batches = []
    for content in contents:
        columns = [pa.array([content] * 2, pa.binary()), pa.array([b"v"] * 2, pa.binary())]
        batch = build(
            base_offset=base,
            epoch=1,
            chain_before=before,
            count=2,
            append_time_us=1,
            time_min_us=1,
            time_max_us=1,
            flags=0,
            spans=[],
            payload=encode_payload(pa.RecordBatch.from_arrays(columns, schema=schema_of(0))),
        )
        batches.append(batch)
        base, before = batch.end, batch.chain_after
    return batches


def positions(batches: list[StoredBatch]) -> dict[int, Position]:
    found = {0: Position()}
    found.update({b.end: Position(b.end, b.chain_after) for b in batches})
    return found


OURS = chain_of(b"a", b"b", b"c")
THEIRS = OURS[:1] + chain_of(b"x", b"y", base=2, before=OURS[0].chain_after)


def test_equal_batches_are_kept() -> None:
    plan = plan_apply(OURS, Position(6, OURS[-1].chain_after), 0, positions(OURS).get)
    assert (plan.truncate_to, plan.batches, plan.end.end) == (None, (), 6)


def test_first_difference_is_cut_and_rewritten() -> None:
    plan = plan_apply(THEIRS, Position(6, OURS[-1].chain_after), 2, positions(OURS).get)
    assert (plan.truncate_to, plan.batches) == (2, tuple(THEIRS[1:]))
    assert plan.end == Position(6, THEIRS[-1].chain_after)


def test_difference_below_the_high_watermark_is_divergence() -> None:
    with pytest.raises(DivergedError, match="offset 2 differs below the high watermark 4"):
        plan_apply(THEIRS, Position(6, OURS[-1].chain_after), 4, positions(OURS).get)


def test_gap_is_refused() -> None:
    with pytest.raises(OutOfRangeError, match="offset 4, this copy ends at 2"):
        plan_apply(OURS[2:], Position(2, OURS[0].chain_after), 0, positions(OURS[:1]).get)


def test_chain_that_does_not_link_is_divergence() -> None:
    stranger = chain_of(b"z", base=2, before=b"q" * 16)
    with pytest.raises(DivergedError):
        plan_apply(stranger, Position(2, OURS[0].chain_after), 0, positions(OURS[:1]).get)


@pytest.mark.parametrize(
    ("primary_end", "mark", "matched", "cut"),
    [
        (Position(4, OURS[1].chain_after), 2, 0, 4),  # what the primary never had goes
        (Position(4, OURS[1].chain_after), 2, 6, None),  # a delayed probe of the same epoch
        (Position(4, OURS[1].chain_after), 6, 0, None),  # never below the high watermark
        (Position(4, THEIRS[1].chain_after), 2, 0, None),  # differs: the batches will show where
        (Position(8, b"n" * 16), 2, 0, None),
    ],
)
def test_probe_cuts_only_what_was_never_committed(
    primary_end: Position, mark: int, matched: int, cut: int | None
) -> None:
    own = Position(6, OURS[-1].chain_after)
    assert plan_probe(primary_end, own, mark, matched, positions(OURS).get) == cut
