"""The port of a simulated policy, and the initial placement of all of them."""

from typing import Protocol

import numpy as np

from sharder.risk import Floats
from sharder.simulate.cluster import Action, SimulatedCluster


class Policy(Protocol):
    """Decides after each slot. Only the oracle looks at coming slots."""

    def decide(self, slot: int, cluster: SimulatedCluster) -> list[Action]:
        """What to start in slot + 1; slots up to `slot` have been seen."""
        ...


class Static:
    """Leaves everything where it is."""

    def decide(self, slot: int, cluster: SimulatedCluster) -> list[Action]:
        return []


def greedy_homes(profile: Floats, instances: int) -> list[int]:
    """Initial placement from history: `profile` [C, H] of loads to expect.

    The largest first, each to the instance whose highest load stays lowest with it (LPT).
    """
    total = np.zeros((instances, profile.shape[1]))
    homes = [0] * len(profile)
    for column in sorted(range(len(profile)), key=lambda c: (-float(profile[c].max()), c)):
        peak = (total + profile[column]).max(axis=1)
        homes[column] = int(peak.argmin())
        total[homes[column]] += profile[column]
    return homes
