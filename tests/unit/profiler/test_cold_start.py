"""Shards without history: which models they borrow, from which shard, and which not."""

import numpy as np
import numpy.typing as npt
import pytest

from profiler.clusters import clusters_of
from profiler.forecast import ForecastBook

DAY = 24
FloatArray = npt.NDArray[np.float64]


def shapes(slots: int) -> FloatArray:
    """Three shapes of a day, each of mean 1, shape (3, slots)."""
    at = 2 * np.pi * np.arange(slots) / DAY
    morning, evening = 1.0 + 0.9 * np.sin(at), 1.0 - 0.9 * np.sin(at)
    twice = 1.0 + 0.9 * np.sin(2 * at)
    return np.stack([morning, evening, twice])


def world(slots: int, each: int = 6, seed: int = 3) -> FloatArray:
    """`each` series of every shape, of sizes from 10 to 1,000, with noise of a tenth."""
    rng = np.random.default_rng(seed)
    kinds = np.repeat(shapes(slots), each, axis=0)
    size = 10.0 ** rng.uniform(1, 3, (len(kinds), 1))
    noise: FloatArray = 1.0 + 0.1 * rng.normal(size=kinds.shape)
    return np.maximum(size * kinds * noise, 0.0)


def test_series_of_one_shape_are_one_cluster_whatever_their_size() -> None:
    found = clusters_of(world(DAY))
    assert len(found.medoids) == 3
    for kind in range(3):
        assert len(set(found.of[6 * kind : 6 * kind + 6].tolist())) == 1
    assert (found.unlike < 0.3).all()
    again = clusters_of(world(DAY))
    assert np.array_equal(found.of, again.of)
    quiet = clusters_of(np.concatenate([world(DAY), np.zeros((1, DAY))]))
    assert quiet.of[-1] == -1


def joined(rows: FloatArray, late: FloatArray, begins: int, seen: int) -> ForecastBook:
    """A book of `rows`, to which `late` came at slot `begins` and was seen for `seen` slots."""
    book = ForecastBook((DAY,), horizons=(1, 6, 12))
    for slot in range(begins + seen):
        values = {f"s{i}": float(row[slot]) for i, row in enumerate(rows)}
        if slot >= begins:
            values["late"] = float(late[slot])
        book.learn_many(slot, values)
    return book


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_new_shard_is_forecast_by_its_cluster_from_its_first_day(kind: int) -> None:
    slots, begins, seen = 6 * DAY, 3 * DAY + 5, 13
    rows, late = world(slots), 77.0 * shapes(slots)[kind]
    book = joined(rows, late, begins, seen)
    now = begins + seen - 1
    said = book.forecast("late", 12, now)
    true = late[now + 1 : now + 13]
    assert np.abs(np.array(said.mean) - true).sum() < 0.25 * true.sum()
    assert said.learned_slots == seen
    assert book.borrowed_count >= 1
    alone = ForecastBook((DAY,), horizons=(1, 6, 12))
    for slot in range(begins, now + 1):
        alone.learn("late", slot, float(late[slot]))
    blind = np.abs(np.array(alone.forecast("late", 12, now).mean) - true).sum()
    assert np.abs(np.array(said.mean) - true).sum() < 0.5 * blind


def test_shards_that_are_like_nobody_lend_nothing() -> None:
    slots, begins, seen = 5 * DAY, 3 * DAY, 13
    rng = np.random.default_rng(7)
    noise = rng.exponential(100.0, (20, slots))  # no day looks like another
    book = joined(noise, 50.0 * shapes(slots)[0], begins, seen)
    assert book.borrowed_count == 0


def test_a_split_keeps_what_it_inherited() -> None:
    rows = world(4 * DAY)
    book = joined(rows, 9.0 * shapes(4 * DAY)[0], 3 * DAY, 0)
    book.inherit("s0", "child", 0.5)
    for slot in range(3 * DAY, 3 * DAY + 12):
        book.learn("child", slot, 1.0)
    assert book.borrowed_count == 0
