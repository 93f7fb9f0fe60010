"""A view as numpy arrays: forecasts of shards, and their sums per instance.

Axes: I instances (sorted by id), S shards (sorted by instance, then id, so the result does not
depend on the order of rows in the view), R resources (ops/s, bytes/s, and
CPU in cores if an instance states a capacity of it), H periods of the
horizon, in which crossings are looked for, F >= H periods that have a forecast.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from sharder.risk import Z80, Floats
from sharder.view import ForecastView, InstanceView, ShardView, View

OPS, BYTES, CPU = 0, 1, 2
MOVING = ("operations", "bytes", "CPU", "I/O", "network")
"""Resources of which a shard takes its part with it; memory and space are others."""
RESOURCE_NAMES = ("ops/s", "bytes/s", "cores")


class LoadTable:
    """Arrays of one view; sums include the influence of operators in flight.

    Raises ValueError that names the shard whose forecast holds a value that is not finite.
    """

    def __init__(self, view: View, forecasts: tuple[Floats, Floats] | None = None) -> None:
        """`forecasts`: mean and sigma [S, H], ops/s, in the order of view.shards; they replace
        those of the view (for callers that hold arrays)."""
        self.view = view
        self.instances: list[InstanceView] = sorted(view.instances, key=lambda i: i.id)
        self.index = {instance.id: i for i, instance in enumerate(self.instances)}
        order = sorted(
            range(len(view.shards)), key=lambda n: (view.shards[n].instance, view.shards[n].id)
        )
        self.shards: list[ShardView] = [view.shards[n] for n in order]
        self.row_of = {s.id: r for r, s in enumerate(self.shards)} if view.in_flight else {}
        """Filled only while operators are in flight."""
        self.home = np.array([self.index[s.instance] for s in self.shards], dtype=np.int64)
        ends = np.arange(len(self.instances) + 1)
        self.bounds: NDArray[np.int64] = np.searchsorted(self.home, ends).astype(np.int64)
        wanted = view.config.horizon_periods
        if forecasts is not None:
            longest = forecasts[0].shape[1]
            self.horizon = min(wanted or longest, longest)
        else:
            known = (len(s.forecast.mean) for s in view.shards if s.forecast is not None)
            longest = max(known, default=1)
            self.horizon = wanted or longest
        self.period_start_s: Floats = view.now_s + view.period_s * np.arange(
            self.horizon, dtype=np.float64
        )
        if forecasts is None:
            self.far_mean, self.far_sigma = self._forecasts(max(self.horizon, longest))
        else:
            self.far_mean, self.far_sigma = (np.asarray(f[order]) for f in forecasts)
        self.mean, self.sigma = (f[:, : self.horizon] for f in (self.far_mean, self.far_sigma))
        self.ratio: Floats = np.array([_bytes_per_op(s) for s in self.shards], dtype=np.float64)
        self.size: Floats = np.array([s.bytes for s in self.shards], dtype=np.float64)
        self.weight: Floats = np.array([s.migration_weight for s in self.shards], dtype=np.float64)
        for name, column in (
            ("bytes", self.size),
            ("migration_weight", self.weight),
            ("bytes per operation", self.ratio),
            ("cpu_s_per_op", np.array([s.cpu_s_per_op for s in self.shards], dtype=np.float64)),
        ):
            bad = ~np.isfinite(column) | (column < 0)
            if bad.any():
                at = int(np.argmax(bad))
                raise ValueError(
                    f"shard {self.shards[at].id}: {name} is {column[at]}, it must be at least 0"
                )
        self._resources()
        self.surprised = self._surprised()
        self._keep_present()
        self.sum_mean, self.sum_squares, self.sum_sigma = self._sums()
        self._add_in_flight()

    def _resources(self) -> None:
        """Capacity and present use, [I, R], and what an operation of each shard takes, [S, R]."""
        limits = [
            (i.capacity_ops_per_s, i.capacity_bytes_per_s, i.capacity_cpu) for i in self.instances
        ]
        cpu = any(limit[CPU] is not None for limit in limits)
        count = 3 if cpu else 2
        per_op = [np.ones_like(self.ratio), self.ratio]
        if cpu:
            per_op.append(np.array([s.cpu_s_per_op for s in self.shards], dtype=np.float64))
        self.scale: Floats = np.stack(per_op, axis=-1)
        self.capacity: Floats = np.array(
            [[_or_inf(value) for value in limit[:count]] for limit in limits], dtype=np.float64
        ).reshape(-1, count)
        present = [(i.ops_per_s, i.bytes_per_s, i.cpu)[:count] for i in self.instances]
        self.used: Floats = (
            np.array(present, dtype=np.float64).reshape(-1, count) / self.capacity
        ).max(axis=1, initial=0.0)
        moving = [
            i.load if i.bound_by in MOVING and i.capacity_cpu is not None else 0.0
            for i in self.instances
        ]
        self.used = np.maximum(self.used, np.array(moving, dtype=np.float64))

    def shard_load(self, rows: int | slice | NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Mean and sigma of one shard [R, H], or of several rows [n, R, H]."""
        scale = self.scale[rows][..., None]
        return (
            self.mean[rows][..., None, :] * scale,
            self.sigma[rows][..., None, :] * scale,
        )

    def starts_after(self, end_s: float | Floats) -> NDArray[np.bool_]:
        """Which periods start at or after `end_s` (a microperiod earlier counts as at)."""
        slack_s = 1e-6 * self.view.period_s
        return np.asarray(self.period_start_s >= end_s - slack_s, dtype=np.bool_)

    def rows_of(self, instance: int) -> slice:
        """The rows of the shards that are on an instance."""
        return slice(int(self.bounds[instance]), int(self.bounds[instance + 1]))

    @property
    def farther(self) -> bool:
        """Whether forecasts go beyond the horizon."""
        return bool(self.far_mean.shape[1] > self.horizon)

    def _forecasts(self, h: int) -> tuple[Floats, Floats]:
        """Mean and sigma, ops/s, [S, h]; a shard without a forecast keeps its present rate."""
        n = len(self.shards)
        forecasts = [s.forecast for s in self.shards]
        if all(f is not None and len(f.mean) == h and f.sigma is None for f in forecasts):
            known = [f for f in forecasts if f is not None]
            mean = _matrix([f.mean for f in known], n, h)
            sigma = (_matrix([f.upper80 for f in known], n, h) - mean) / Z80
        else:
            rows = [_row(s, f, h) for s, f in zip(self.shards, forecasts, strict=True)]
            mean = _matrix([r[0] for r in rows], n, h)
            sigma = _matrix([r[1] for r in rows], n, h)
        bad = ~(np.isfinite(mean) & np.isfinite(sigma)).all(axis=1)
        if bad.any():
            raise ValueError(
                f"shard {self.shards[int(np.argmax(bad))].id}: its forecast is not finite"
            )
        return np.maximum(mean, 0.0), np.maximum(sigma, 0.0)

    def _surprised(self) -> NDArray[np.bool_]:
        """Instances over their threshold by far more load than was forecast for now."""
        config = self.view.config
        found = np.asarray(self.used > config.risk.threshold, dtype=np.bool_)
        if config.surprise is None:
            return np.zeros_like(found)
        for i in np.flatnonzero(found).tolist():
            mine = self.shards[self.rows_of(i)]
            present = sum(s.ops_per_s for s in mine)
            expected = sum(
                s.ops_per_s if s.expected_ops_per_s is None else s.expected_ops_per_s for s in mine
            )
            found[i] = present > config.surprise * expected
        return found

    def _keep_present(self) -> None:
        """Raise the forecast of shards on a surprised instance to at least their present load."""
        if self.surprised.any():
            self.mean = self.mean.copy()  # within the horizon only
        for i in np.flatnonzero(self.surprised).tolist():
            rows = self.rows_of(i)
            present = np.array([s.ops_per_s for s in self.shards[rows]], dtype=np.float64)
            self.mean[rows] = np.maximum(self.mean[rows], present[:, None])

    def _sums(self) -> tuple[Floats, Floats, Floats]:
        """Sums over the shards of each instance: mean, sigma^2, sigma; each [I, R, H]."""
        shape = (len(self.instances), self.capacity.shape[1], self.horizon)
        sums = np.zeros((3, *shape))
        filled = np.flatnonzero(self.bounds[1:] > self.bounds[:-1])
        if filled.size:
            starts = self.bounds[filled]
            for out, values, power in (
                (sums[0], self.mean, 1),
                (sums[1], self.sigma**2, 2),
                (sums[2], self.sigma, 1),
            ):
                out[filled, OPS] = np.add.reduceat(values, starts, axis=0)
                for resource in range(BYTES, out.shape[1]):
                    scale = self.scale[:, resource, None] ** power
                    out[filled, resource] = np.add.reduceat(values * scale, starts, axis=0)
        return sums[0], sums[1], sums[2]

    def _add_in_flight(self) -> None:
        for op in sorted(self.view.in_flight, key=lambda op: op.id):
            row = self.row_of.get(op.shard)
            if op.kind not in ("move", "switch") or row is None:
                continue
            source, target = self.index[op.source], self.index[op.target]
            if self.home[row] != source:
                continue  # past its cutover: statistics show the load at the target already
            self.shift(row, source, target, op.expected_end_s)

    def shift(self, row: int, source: int, target: int, end_s: float, share: float = 1.0) -> None:
        """Move a shard's load in the sums: to the target at once, off the source from `end_s`.

        With `share` only that part of it, as after a split.
        """
        mean, sigma = self.shard_load(row)
        gone = self.starts_after(end_s)
        left = (1.0 - share) ** 2
        for total, part, at_target, off_source in (
            (self.sum_mean, mean, share, share),
            (self.sum_squares, sigma**2, share**2, 1.0 - left),
            (self.sum_sigma, sigma, share, share),
        ):
            total[target] += part * at_target
            total[source] = np.maximum(total[source] - part * off_source * gone, 0.0)


def _matrix(rows: Sequence[Sequence[float]], n: int, h: int) -> Floats:
    flat = np.fromiter(chain.from_iterable(rows), dtype=np.float64, count=n * h)
    return flat.reshape(n, h)


def _row(
    shard: ShardView, forecast: ForecastView | None, h: int
) -> tuple[list[float], list[float]]:
    """Mean and sigma over exactly `h` periods; the last known value fills later ones."""
    if forecast is None:
        return [shard.ops_per_s] * h, [0.0] * h
    mean = list(forecast.mean[:h])
    if forecast.sigma is not None:
        sigma = list(forecast.sigma[:h])
    else:
        sigma = [(u - m) / Z80 for u, m in zip(forecast.upper80[:h], mean, strict=False)]
    missing = h - len(mean)
    return mean + mean[-1:] * missing, sigma + sigma[-1:] * missing


def _bytes_per_op(shard: ShardView) -> float:
    if shard.bytes_per_op is not None:
        return shard.bytes_per_op
    return shard.bytes_per_s / shard.ops_per_s if shard.ops_per_s > 0 else 0.0


def _or_inf(value: float | None) -> float:
    return float("inf") if value is None else float(value)
