"""Capacity and costs are found from what a made-up instance does and uses; its true figures are
drawn, so nothing here was tuned on them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from profiler.capacity import CapacityEstimate, Observation
from profiler.costs import CostModel, Work, cpu_s

SEEDS = range(12)


@dataclass
class MadeUp:
    """An instance with true costs on a machine of `cores`, of which others use `others`."""

    append_s: float
    read_s: float
    scan_mib_s: float
    base: float
    quota: float
    cores: float = 2.0
    others: float = 0.0
    helpers: float = 1.15
    """CPU of all threads for 1 of the loop's."""

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "MadeUp":
        return cls(
            append_s=float(rng.uniform(3e-5, 6e-4)),
            read_s=float(rng.uniform(1e-4, 2e-3)),
            scan_mib_s=float(rng.uniform(5e-4, 2e-2)),
            base=float(rng.uniform(0.001, 0.02)),
            quota=float(rng.uniform(0.15, 1.0)),
        )

    def cost_s(self, appends: float, reads: float, scanned_mib: float) -> float:
        return appends * self.append_s + reads * self.read_s + scanned_mib * self.scan_mib_s

    def second(
        self, rng: np.random.Generator, appends: float, reads: float, mib: float
    ) -> Observation:
        """A second with this much offered; what there is no CPU for is not served."""
        most = min(self.quota, self.helpers, self.cores - self.others)
        wanted = self.cost_s(appends, reads, mib)
        part = min(1.0, max(most - self.base, 0.0) / wanted) if wanted else 1.0
        used = self.base + wanted * part
        used *= float(rng.normal(1.0, 0.05))
        tick = round(used / 0.01) * 0.01  # the system counts in ticks
        return Observation(
            elapsed_s=1.0,
            work=Work(append=appends * part, append_batch=appends * part,
                      append_mib=appends * part / 1e4, key_read=reads * part,
                      scan=mib * part / 4, read_mib=mib * part),
            cpu_s=tick,
            loop_cpu_s=used / self.helpers,
            cores=min(self.cores, self.quota),
            cores_free=max(0.0, self.cores - self.others - used),
            cores_fair=self.cores / (self.others + 1.0),
            lag_s=0.001 if part == 1.0 else 0.08,
            throttled=part < 1.0,
        )  # fmt: skip


def watched(
    made: MadeUp, seconds: int, offered: Callable[[int], tuple[float, float, float]], seed: int
) -> CapacityEstimate:
    estimate, rng = CapacityEstimate(1.0, min(made.quota, made.cores)), np.random.default_rng(seed)
    for second in range(seconds):
        estimate.observe(made.second(rng, *offered(second)))
    return estimate


@pytest.mark.parametrize("seed", SEEDS)
def test_the_served_maximum_is_known_from_a_third_of_it(seed: int) -> None:
    made = MadeUp.drawn(np.random.default_rng(seed))
    true_max = (min(made.quota, made.helpers) - made.base) / made.append_s
    estimate = watched(made, 120, lambda s: (true_max * (0.3 + 0.05 * (s % 3)), 0.0, 0.0), seed)
    assert 0.8 < estimate.ops_per_s / true_max < 1.25


@pytest.mark.parametrize("seed", SEEDS)
def test_a_kind_of_operation_is_told_from_another_by_its_cost(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    made = MadeUp.drawn(rng)
    room = made.quota - made.base
    model = CostModel()
    for _ in range(300):
        a, b, c = rng.uniform(0, 0.3, 3) * room
        seen = made.second(rng, a / made.append_s, b / made.read_s, c / made.scan_mib_s)
        model.learn(seen.work, seen.cpu_s, 1.0)
    costs = model.costs()
    appends, reads = 0.4 * room / made.append_s, 0.4 * room / made.read_s
    scans = Work(scan=10, read_mib=40)
    work = Work(append=appends, append_batch=appends, append_mib=appends / 1e4)
    assert cpu_s(work, costs) == pytest.approx(0.4 * room, rel=0.25)
    assert cpu_s(Work(key_read=reads), costs) == pytest.approx(0.4 * room, rel=0.25)
    assert cpu_s(scans, costs) == pytest.approx(40 * made.scan_mib_s, rel=0.35)


def test_what_the_neighbours_take_is_no_capacity() -> None:
    made = MadeUp(2e-4, 1e-3, 2e-3, 0.005, quota=2.0)
    alone = watched(made, 60, lambda _: (500.0, 0.0, 0.0), 1).cores
    made.others = 1.7
    beside = watched(made, 60, lambda _: (500.0, 0.0, 0.0), 1)
    assert alone > 0.95
    assert beside.cores == pytest.approx(0.5 * 2.0 / 2.7, abs=0.03)  # 0.3 is left, and a fair part
    assert beside.used / beside.cores == pytest.approx(0.105 / 0.37, rel=0.2)


def test_what_was_served_well_stays_for_a_while_and_fades() -> None:
    made = MadeUp(2e-4, 1e-3, 2e-3, 0.005, quota=2.0)
    estimate, rng = CapacityEstimate(1.0, 2.0), np.random.default_rng(3)
    for _ in range(120):
        estimate.observe(made.second(rng, 3_500.0, 0.0, 0.0))
    before = estimate.cores
    made.others = 1.9  # a neighbour comes, and this instance has little to do
    seen = []
    for _ in range(3600):
        estimate.observe(made.second(rng, 100.0, 0.0, 0.0))
        seen.append(estimate.cores)
    assert before > 0.9
    assert seen[30] > 0.4  # one busy half a minute does not halve what was served well
    assert seen[600] == pytest.approx(0.5 * 2.0 / 2.9, abs=0.05)
    made.others = 0.0
    for _ in range(120):
        estimate.observe(made.second(rng, 100.0, 0.0, 0.0))
    assert estimate.cores > 0.9


def test_a_late_event_loop_can_do_no_more_than_it_does() -> None:
    estimate = CapacityEstimate(1.0, 2.0)
    for _ in range(60):
        estimate.observe(
            Observation(1.0, Work(400.0, 400.0), cpu_s=0.2, cores=2.0, cores_free=1.8, lag_s=0.4)
        )
    assert estimate.cores == pytest.approx(0.2, abs=0.05)
    assert estimate.ops_per_s == pytest.approx(400, rel=0.2)


def test_figures_stay_within_bounds_whatever_is_seen() -> None:
    rng = np.random.default_rng(5)
    estimate = CapacityEstimate(1.0, 1.0)
    for _ in range(500):
        counts = rng.exponential(1e5, 9) * rng.integers(0, 2, 9)
        estimate.observe(
            Observation(float(rng.uniform(0.05, 30)), Work(*counts), float(rng.exponential(2)),
                        float(rng.exponential(1)), 1.0, float(rng.exponential(1)),
                        float(rng.exponential(0.1)))
        )  # fmt: skip
        assert 0.001 <= estimate.cores < 100
        assert 0 < estimate.ops_per_s < 1e12
        assert all(0 < cost < 1 for cost in estimate.model.costs().values())
