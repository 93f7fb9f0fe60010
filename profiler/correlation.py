"""Which groups of keys rise and fall together, and which are touched together."""

from collections import deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
GROUPS_MAX = 4_096


class CorrelationMatrix:
    """Exponentially weighted correlation of the series of `groups` key groups.

    Means and covariances fade with `half_life_slots` (West's incremental form, 1979). Memory is
    groups x groups x 8 bytes, an update that many multiplications.
    """

    def __init__(self, groups: int, half_life_slots: float = 48.0) -> None:
        if not 1 <= groups <= GROUPS_MAX:
            raise ValueError(f"groups is {groups}, the limit is 1 to {GROUPS_MAX}")
        if not half_life_slots > 0:
            raise ValueError(f"half_life_slots is {half_life_slots}, the limit is more than 0")
        self._rate = 1.0 - 0.5 ** (1.0 / half_life_slots)
        self._mean: FloatArray = np.zeros(groups)
        self._covariance: FloatArray = np.zeros((groups, groups))
        self._noise: FloatArray = np.zeros(groups)
        self.learned_slots = 0

    def learn(self, values: FloatArray, noise: FloatArray | None = None) -> None:
        """The values of one slot, shape (groups,); `noise`: the variance that sampling added."""
        if values.shape != self._mean.shape:
            raise ValueError(f"values has shape {values.shape}, the limit is {self._mean.shape}")
        self.learned_slots += 1
        rate = max(self._rate, 1.0 / self.learned_slots)
        gap = values - self._mean
        self._mean += rate * gap
        self._covariance += rate * ((1.0 - rate) * np.outer(gap, gap) - self._covariance)
        if noise is not None:
            self._noise += rate * (noise - self._noise)

    def grow(self, groups: int) -> None:
        """Take further groups in, of which all values were 0 so far."""
        if not len(self._mean) <= groups <= GROUPS_MAX:
            raise ValueError(f"groups is {groups}, the limit is {len(self._mean)} to {GROUPS_MAX}")
        more = groups - len(self._mean)
        self._mean, self._noise = np.pad(self._mean, (0, more)), np.pad(self._noise, (0, more))
        self._covariance = np.pad(self._covariance, ((0, more), (0, more)))

    def covariance(self) -> FloatArray:
        """Shape (groups, groups), without the noise of sampling."""
        found = self._covariance.copy()
        diagonal = np.diag_indices_from(found)
        found[diagonal] = np.maximum(found[diagonal] - self._noise, 0.0)
        return found

    def correlation(self) -> FloatArray:
        """Shape (groups, groups), -1 to 1; 0 where a group did not vary, 1 on the diagonal."""
        covariance = self.covariance()
        spread = np.sqrt(np.diag(covariance))
        unit = np.where(spread > 1e-12, spread, np.inf)
        found: FloatArray = np.clip(covariance / unit[:, None] / unit[None, :], -1.0, 1.0)
        np.fill_diagonal(found, 1.0)
        return found

    def pairs(self, at_least: float = 0.8) -> list[tuple[int, int, float]]:
        """(i, j, correlation), i < j, strongest first."""
        matrix = np.triu(self.correlation(), 1)
        i, j = np.nonzero(matrix >= at_least)
        found = zip(i.tolist(), j.tolist(), matrix[i, j].tolist(), strict=True)
        return sorted(found, key=lambda pair: -pair[2])


class CoAccess:
    """How often one client touches two groups within `window_us` of each other.

    At most `recent_max` touches are compared and `pairs_max` pairs are held: when full, all
    counts are halved and the smallest dropped, so that frequent pairs stay.
    """

    def __init__(self, window_us: int, *, recent_max: int = 64, pairs_max: int = 65_536) -> None:
        if window_us < 0:
            raise ValueError(f"window_us is {window_us}, the limit is at least 0")
        self._window_us, self._pairs_max = window_us, pairs_max
        self._recent: deque[tuple[int, str, int]] = deque(maxlen=recent_max)
        self._counts: dict[tuple[int, int], float] = {}

    def learn(self, client: str, groups: Iterable[int], time_us: int) -> None:
        """One request of `client` that touched `groups`. Times should not decrease."""
        touched = sorted(set(groups))
        near = {
            group
            for at, who, group in self._recent
            if who == client and time_us - at <= self._window_us
        }
        for i, group in enumerate(touched):
            for other in near.union(touched[i + 1 :]) - {group}:
                pair = (min(group, other), max(group, other))
                self._counts[pair] = self._counts.get(pair, 0.0) + 1.0
        self._recent.extend((time_us, client, group) for group in touched)
        while len(self._counts) > self._pairs_max:
            halved = {pair: count / 2.0 for pair, count in self._counts.items() if count >= 2.0}
            self._counts = halved

    def top(self, count: int = 20) -> list[tuple[int, int, float]]:
        """(i, j, count), i < j, most frequent first."""
        found = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return [(i, j, n) for (i, j), n in found[:count]]
