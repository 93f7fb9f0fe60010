"""The table of placed keys: the first token of a key counts, however the batches come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharder.key_table import KeyTable, hashes_of

BATCHES = st.lists(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2**64 - 1)), max_size=20), max_size=12
)


@given(BATCHES)
def test_it_is_a_dict_of_which_the_first_value_stays(
    batches: list[list[tuple[int, int]]],
) -> None:
    table, known = KeyTable(), dict[int, int]()
    for batch in batches:
        hashes = np.array([h for h, _ in batch], dtype=np.uint64)
        table.add(hashes, np.array([t for _, t in batch], dtype=np.uint64))
        for key_hash, token in batch:
            known.setdefault(key_hash, token)
    tokens, found = table.find(np.arange(41, dtype=np.uint64))
    assert {n: t for n, t, f in zip(range(41), tokens.tolist(), found, strict=True) if f} == known
    assert len(table) == len(known)
    starts = np.array([0, 2**62, 2**63], dtype=np.uint64)
    expected = [0, 0, 0]
    for token in known.values():
        expected[(token >= 2**62) + (token >= 2**63)] += 1
    assert table.counts(starts).tolist() == expected


def test_many_batches_stay_in_few_runs() -> None:
    table = KeyTable()
    for at in range(0, 200_000, 1_000):
        hashes = hashes_of(b"%d" % n for n in range(at, at + 1_000))
        table.add(hashes, hashes)
    hashes = hashes_of(b"%d" % n for n in range(200_000))
    tokens, known = table.find(hashes)
    assert known.all()
    assert (tokens == hashes).all()
    assert len(table._runs) <= 10


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens has 1 elements, hashes has 2"):
        KeyTable().add(np.zeros(2, dtype=np.uint64), np.zeros(1, dtype=np.uint64))
