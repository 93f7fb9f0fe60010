"""Split keys for text of which only the characters are known."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharder.alphabet import characters, cuts_of_alphabet, holding_text
from sharder.keys import Partitioner, even_ranges, ranges_from_cuts


def test_ranges_of_characters() -> None:
    assert "".join(characters("0-9a-f")) == "0123456789abcdef"
    assert characters("ba-") == ["-", "a", "b"]
    assert characters("é-ëa") == ["a", "é", "ê", "ë"]


@pytest.mark.parametrize(
    ("alphabet", "said"),
    [("", "it has 0 characters"), ("aaa", "it has 1"), ("z-a", "z-a does not rise"),
     ("\0-\uffff", "more than 4096")],
)  # fmt: skip
def test_a_wrong_alphabet_is_named(alphabet: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        characters(alphabet)


def test_one_character_a_shard() -> None:
    assert cuts_of_alphabet("0-9a-f", 16) == [c.encode() for c in "123456789abcdef"]
    assert cuts_of_alphabet("0-9", 2) == [b"5"]
    assert cuts_of_alphabet("0-9", 20)[:3] == [b"05", b"1", b"15"]
    assert cuts_of_alphabet("a-z", 1) == []


@given(st.integers(2, 40), st.integers(1, 300))
def test_words_over_the_characters_spread_evenly(width: int, shards: int) -> None:
    alphabet = "".join(chr(ord("0") + n) for n in range(width))
    cuts = cuts_of_alphabet(alphabet, shards)
    assert len(cuts) == shards - 1
    assert all(a < b for a, b in pairwise(cuts))
    places = 1
    while width**places < shards:
        places += 1
    words = sorted(
        "".join(alphabet[n // width**p % width] for p in range(places)).encode()
        for n in range(width**places)
    )
    counts = [sum(1 for w in words if w in r) for r in ranges_from_cuts(cuts)]
    assert max(counts) - min(counts) <= 1


def test_text_reaches_few_of_even_ranges() -> None:
    assert holding_text(even_ranges(Partitioner.RANGE, 4)) == 2
    assert holding_text(even_ranges(Partitioner.RANGE, 1)) == 1
    assert holding_text(ranges_from_cuts(cuts_of_alphabet("a-z", 8))) == 8
