"""Which message of a topic is applied (F2), and what of it is believed."""

from dataclasses import replace
from typing import Any

import pytest

from logstore.base.errors import CorruptBatchError, DivergedError
from logstore.base.types import Position
from logstore.feed.port import FeedMessage
from logstore.feed.sequence import Sequence, Take, message_of, verified
from tests.support.engine import batch_at


def message(base: int, count: int = 10, epoch: int = 3) -> FeedMessage:
    batch = batch_at(Position(base, b"c" * 16), [b"k"] * count)
    return message_of(batch, epoch, base + count)


def test_only_the_next_offset_is_applied() -> None:
    at = Sequence(20)
    assert at.look(message(20)) is Take.APPLY
    assert at.look(message(10)) is Take.DUPLICATE
    assert at.look(message(30)) is Take.GAP
    at.applied(30)
    assert at.look(message(20)) is Take.DUPLICATE
    assert at.look(message(30)) is Take.APPLY


def test_a_fenced_publisher_that_comes_late_is_not_heard() -> None:
    at = Sequence(0)
    assert at.look(message(0, epoch=2)) is Take.APPLY
    at.applied(10)
    assert at.look(message(10, epoch=4)) is Take.APPLY
    at.applied(20)
    assert at.look(message(20, epoch=3)) is Take.OLD_EPOCH
    assert at.look(message(20, epoch=4)) is Take.APPLY


def test_a_batch_that_was_cut_differently_is_a_divergence() -> None:
    with pytest.raises(DivergedError, match=r"15\.\.25 .* before our end 20"):
        Sequence(20).look(message(15))


@pytest.mark.parametrize("field", ["base_offset", "count", "crc32c", "chain_before", "chain_after"])
def test_headers_are_compared_with_the_envelope(field: str) -> None:
    good = message(10)
    assert verified(good).end == 20
    wrong: Any = b"x" * 16 if field.startswith("chain") else getattr(good, field) + 1
    with pytest.raises(CorruptBatchError):
        verified(replace(good, **{field: wrong}))


def test_a_flipped_bit_of_the_envelope_is_seen() -> None:
    good = message(10)
    flipped = bytearray(good.data)
    flipped[len(flipped) // 2] ^= 1
    with pytest.raises(CorruptBatchError):
        verified(replace(good, data=bytes(flipped)))
