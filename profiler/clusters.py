"""Clusters of series by the shape of their day, independent of their size (k-means)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ROUNDS_MAX = 20
PARTS_MAX = 48
"""Parts of the season that are compared: finer differences are noise."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """`of` (series,) the cluster of each, -1 for series of zeros; `medoids` (clusters,) the series
    nearest each centre; `centres` (clusters, parts) of mean 1; largest cluster first.

    `unlike` (clusters,): distance of members from the centre of the *others* in their cluster,
    over their distance from a constant. Near 0: the members have one shape; 1 and
    more, and infinity for a cluster of one: the shape is no information.
    """

    of: IntArray
    medoids: IntArray
    centres: FloatArray
    unlike: FloatArray


def shapes_of(seasons: FloatArray, parts_max: int = PARTS_MAX) -> FloatArray:
    """(series, slots of one season) to (series, parts) of mean 1; rows of zeros stay zeros."""
    slots = seasons.shape[1]
    parts = min(slots, parts_max)
    edges = np.arange(parts) * slots // parts
    sums = np.add.reduceat(seasons, edges, axis=1)
    sizes = np.diff(np.append(edges, slots))
    means = sums / sizes
    level = means.mean(axis=1, keepdims=True)
    found: FloatArray = np.where(level > 0, means / np.where(level > 0, level, 1.0), 0.0)
    return found


def clusters_of(seasons: FloatArray, count_max: int = 16, join: float = 0.5) -> Clusters:
    """Group series (series, slots of one season) whose shapes differ by little.

    Centres start as the series furthest from those chosen before (Gonzalez, 1985), until none is
    further than `join` times the distance of the shapes from a constant (mean absolute
    differences), or `count_max` is reached; then k-means (Lloyd). Deterministic.
    """
    shapes = shapes_of(seasons)
    live = np.flatnonzero(shapes.any(axis=1))
    of = np.full(len(shapes), -1, dtype=np.int64)
    if not len(live):
        return Clusters(
            of, np.zeros(0, dtype=np.int64), np.zeros((0, shapes.shape[1])), np.zeros(0)
        )
    points = shapes[live]
    centres = _spread_out(points, count_max, join * float(np.abs(points - 1.0).mean()))
    nearest = _nearest(points, centres)
    for _ in range(ROUNDS_MAX):
        centres = np.stack([points[nearest == k].mean(axis=0) for k in range(len(centres))])
        moved = _nearest(points, centres)
        kept = np.unique(moved)
        if len(kept) < len(centres):  # a cluster without series
            centres, moved = centres[kept], np.searchsorted(kept, moved)
        if np.array_equal(moved, nearest):
            break
        nearest = moved
    order = np.argsort(-np.bincount(nearest, minlength=len(centres)), kind="stable")
    centres, rank = centres[order], np.argsort(order)
    of[live] = rank[nearest]
    gaps = np.abs(points - centres[of[live]]).mean(axis=1)
    medoids, unlike = [], []
    for k in range(len(centres)):
        mine = np.flatnonzero(of[live] == k)
        medoids.append(int(live[mine[gaps[mine].argmin()]]))
        uneven = float(np.abs(points[mine] - 1.0).mean())
        if len(mine) < 2 or uneven == 0:
            unlike.append(float("inf"))
        else:
            others = len(mine) / (len(mine) - 1)  # a member moves its own centre
            unlike.append(float(gaps[mine].mean()) * others / uneven)
    return Clusters(of, np.array(medoids), centres, np.array(unlike))


def _spread_out(points: FloatArray, count_max: int, join_below: float) -> FloatArray:
    middle = np.abs(points - np.median(points, axis=0)).mean(axis=1)
    chosen = [int(middle.argmin())]
    far = np.abs(points - points[chosen[0]]).mean(axis=1)
    while len(chosen) < count_max and far.max() > join_below:
        chosen.append(int(far.argmax()))
        far = np.minimum(far, np.abs(points - points[chosen[-1]]).mean(axis=1))
    return points[chosen]


def _nearest(points: FloatArray, centres: FloatArray) -> IntArray:
    gaps = np.stack([np.abs(points - centre).mean(axis=1) for centre in centres], axis=1)
    found: IntArray = gaps.argmin(axis=1)
    return found
