"""Run policies over a series on one cluster and compare them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sharder.risk import Floats
from sharder.simulate.cluster import Action, Settings, SimulatedCluster, Split
from sharder.simulate.forecasts import Forecasts, Truth, WithoutIntervals
from sharder.simulate.measure import Metrics, measure
from sharder.simulate.planned import HORIZON, Planned, planner_config
from sharder.simulate.port import Policy, Static, greedy_homes
from sharder.simulate.rules import HoltWintersRule, MemoryRule, Pip483, Pravega, SeasonalQuantile
from sharder.simulate.series import Series, part_weights

REACTIVE = ("reactive-pravega", "reactive-pip483", "reactive-memory")
OURS = ("ours", "ours-no-intervals", "ours-no-cost")
POLICIES = (
    "static-mean", "static-peak", *REACTIVE, "seasonal-quantile", "holt-winters", *OURS, "oracle",
)  # fmt: skip
_FREE = {"move_cost_fixed": 0.0, "move_cost_per_gib": 0.0, "move_cost_per_s": 0.0}


@dataclass(frozen=True, slots=True)
class Scenario:
    """A series whose slots [first, T) are scored; earlier ones are history."""

    series: Series
    settings: Settings
    first: int
    forecasts: Forecasts

    def __post_init__(self) -> None:
        if not 1 <= self.first < len(self.series.loads):
            raise ValueError(
                f"warm-up is {self.first} slots, it must be within 1..{len(self.series.loads) - 1}"
            )


def auto_capacity(series: Series, instances: int, room: float) -> float:
    """`room` x the 99.9 % load of all columns together, per instance and slot."""
    if instances < 1 or not 0 < room < np.inf:
        raise ValueError(f"instances is {instances} and room {room}: at least 1 and above 0")
    if not series.loads.any():
        raise ValueError("the series holds no load at all, there is nothing to plan for")
    return room * float(np.quantile(series.loads.sum(axis=1), 0.999)) / instances


def simulate(
    scenario: Scenario,
    policies: Sequence[str] = POLICIES,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Metrics]:
    """Metrics of each policy, in the order asked for. ValueError for an unknown one.

    The oracle is the best of the planner's runs that know the future; where another policy of the
    same call is still better, the oracle's row takes those figures and `replaced_by` names it.
    """
    for name in policies:
        if name not in POLICIES:
            raise ValueError(f"policy is {name!r}, known are {', '.join(POLICIES)}")
    found: dict[str, Metrics] = {}
    for name in sorted(policies, key=POLICIES.index):  # the oracle last
        if progress is not None:
            progress(name)
        found[name] = _oracle(scenario, found) if name == "oracle" else run(scenario, name)
    return {name: found[name] for name in policies}


def run(scenario: Scenario, name: str) -> Metrics:
    """One policy by name, except the oracle."""
    history = scenario.series.loads[: scenario.first]
    start = "peak" if name == "static-peak" else "mean"
    return run_policy(scenario, make_policy(scenario, name), _homes(history, scenario, start))


def make_policy(scenario: Scenario, name: str) -> Policy:
    series, settings = scenario.series, scenario.settings
    config = planner_config(settings)
    makers: Mapping[str, Callable[[], Policy]] = {
        "static-mean": Static,
        "static-peak": Static,
        "reactive-pravega": lambda: Pravega(series, seed=settings.seed),
        "reactive-pip483": lambda: Pip483(series),
        "reactive-memory": lambda: MemoryRule(series),
        "seasonal-quantile": lambda: SeasonalQuantile(series),
        "holt-winters": lambda: HoltWintersRule(series),
        "ours": lambda: Planned(series, scenario.forecasts, config),
        "ours-no-intervals": lambda: Planned(series, WithoutIntervals(scenario.forecasts), config),
        "ours-no-cost": lambda: Planned(
            series, scenario.forecasts, replace(config, risk=replace(config.risk, **_FREE))
        ),
    }
    return makers[name]()


def run_policy(scenario: Scenario, policy: Policy, homes: Sequence[int]) -> Metrics:
    """Walk the scored slots: load comes, the policy decides, its operators act a slot later."""
    series, settings = scenario.series, scenario.settings
    weights = part_weights(len(series.names), settings.seed)
    stored = series.loads[: scenario.first].sum(axis=0) * settings.record_bytes
    cluster = SimulatedCluster.of_columns(settings, weights, stored, homes)
    slots = range(scenario.first, len(series.loads))
    loads = np.zeros((len(slots), settings.instances))
    used = splits = 0
    for slot in slots:
        cluster.advance(slot)
        loads[slot - scenario.first] = cluster.load(series.loads[slot])
        used += len(np.unique(cluster.home))
        actions: list[Action] = policy.decide(slot, cluster)
        splits += sum(isinstance(a, Split) for a in actions)
        cluster.act(slot + 1, actions)
    return measure(
        loads, used, cluster.moves, splits, len(cluster.uids), cluster.refused,
        series, scenario.first, settings,
    )  # fmt: skip


def _homes(history: Floats, scenario: Scenario, start: str) -> list[int]:
    if start == "peak":
        profile = np.quantile(history, 0.999, axis=0)[:, None]
    else:
        profile = history.mean(axis=0)[:, None]
    return greedy_homes(profile, scenario.settings.instances)


def _oracle(scenario: Scenario, others: Mapping[str, Metrics]) -> Metrics:
    """The best of a few ways of planning with the true future, or any policy that beats it.

    Best: fewest overloaded instance-slots, then fewest moves.
    """
    homes = _homes(scenario.series.loads[: scenario.first], scenario, "mean")
    tried = []
    for threshold, horizon in ((0.999, HORIZON), (0.999, 4 * HORIZON), (0.95, 4 * HORIZON)):
        config = planner_config(scenario.settings, horizon_periods=horizon)
        config = replace(config, risk=replace(config.risk, threshold=threshold), hysteresis=0.005)
        policy = Planned(scenario.series, Truth(scenario.series, horizon), config)
        tried.append(run_policy(scenario, policy, homes))
    best = min(tried, key=_rank)
    for name, metrics in others.items():
        if metrics.overloaded_instance_slots < best.overloaded_instance_slots:
            best = replace(metrics, replaced_by=name)
    return best


def _rank(metrics: Metrics) -> tuple[int, int]:
    return metrics.overloaded_instance_slots, metrics.moves
