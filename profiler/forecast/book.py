"""ForecastBook, the entry point: shards by name, slots in order, forecasts with intervals."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from profiler.anomaly import AnomalyBook
from profiler.calendar import Calendar
from profiler.forecast.announced import EventBelief
from profiler.forecast.bank import Bank, BankForecast, ModelFactory, default_models
from profiler.forecast.cold_start import ColdStart
from profiler.forecast.intervals import LEVELS
from profiler.forecast.mixture import BOUNDS
from profiler.forecast.port import FloatArray
from profiler.forecast.trend import LoadTrend, trend_of
from profiler.scoreboard import Score
from profiler.types import Forecast

HORIZONS = (1, 2, 3, 6, 12, 24)
HORIZON_SLOTS_MAX = 1024
SHARDS_MAX = 16_384
HISTORY_SLOTS_MAX = 4_096
LAG_SLOTS_MAX = 1_024
DAY_S, WEEK_S = 86_400.0, 604_800.0


def seasons_of(period_s: float, history_slots_max: int = HISTORY_SLOTS_MAX) -> tuple[int, ...]:
    """A day and a week in slots of `period_s`, if they are whole and a history can hold two."""
    found = []
    for season_s in (DAY_S, WEEK_S):
        slots = round(season_s / period_s)
        if slots >= 2 and abs(slots * period_s - season_s) < 1e-6 and 2 * slots < history_slots_max:
            found.append(slots)
    return tuple(found)


class ForecastBook:
    """Learns the load of shards slot by slot and forecasts it, with intervals and scores.

    Time is the slot number only, so history can be fed as fast as it is read. `learn_many` takes
    one slot of many shards in one go and costs little more than one shard: prefer it.

    Several models learn each shard. At each horizon the one with the lowest recent error is used,
    and only if it beats last value (`Selector`). Intervals are conformal (`Intervals`). Scores
    are prequential: a forecast is kept when made and scored when its slot has come.

    Gaps: a missing slot means "not observed". Up to the depth of the history it is filled with
    the forecast for it, and neither it nor a forecast made meanwhile is scored; after a longer gap
    the shard starts again from nothing. Known silence must be learned as 0.

    With a `calendar` (slots are then `period_s` seconds from the Unix epoch) announced events are
    removed from the learned values and added to the forecasts: the models know only the usual
    load, so an event does not become next week's season, and need not be seen to be expected.
    Scores are of the usual load too. The calendar learns the observed factors of kinds from this
    book if it `teaches`: from totals, not from their small parts.

    `anomalies` gets each value with its forecast, of the usual load too.

    Bounded: `shards_max` shards of `history_slots_max` slots; over it ValueError.
    """

    def __init__(
        self,
        season_slots: Sequence[int] = (24, 168),
        *,
        horizons: Sequence[int] = HORIZONS,
        shards_max: int = SHARDS_MAX,
        history_slots_max: int = HISTORY_SLOTS_MAX,
        models: ModelFactory = default_models,
        calendar: Calendar | None = None,
        period_s: float = 0.0,
        teaches: bool = True,
        anomalies: AnomalyBook | None = None,
    ) -> None:
        seasons, steps = tuple(season_slots), tuple(horizons)
        if list(seasons) != sorted(set(seasons)) or any(season < 2 for season in seasons):
            raise ValueError(f"season_slots is {seasons}, the limit is >= 2 each and ascending")
        if not steps or list(steps) != sorted(set(steps)) or steps[0] < 1:
            raise ValueError(f"horizons is {steps}, the limit is >= 1 each and ascending")
        longest = seasons[-1] if seasons else 1
        if 2 * longest + steps[-1] > history_slots_max:
            raise ValueError(
                f"season_slots is {seasons}: two of the longest and horizon {steps[-1]} need more "
                f"than the limit of {history_slots_max} history slots"
            )
        self._season = seasons[0] if seasons else 1
        # Four seasons for the profile, one more for the level of the last days.
        depth = min(history_slots_max, max(64, 5 * longest + 2 * steps[-1]))
        self._bank = Bank(seasons, steps, depth, models)
        if calendar is not None and not period_s > 0:
            raise ValueError(f"period_s is {period_s}, the limit with a calendar is more than 0")
        self.calendar = calendar
        self._announced = EventBelief(calendar, period_s, teaches) if calendar is not None else None
        self.anomalies = anomalies
        self.shards_max = shards_max
        self._cold = ColdStart(self._bank.history, seasons[0]) if seasons else None
        self._first: dict[str, int] = {}
        """Shards that began without a parent, and their first slot."""
        self._young: set[str] = set()
        """Shards that have not seen a whole season yet."""
        self._rows: dict[str, int] = {}
        self._free: list[int] = []
        self._room = 0
        self.stale_count = 0
        self.filled_count = 0
        self.borrowed_count = 0

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(self._rows)

    @property
    def model_names(self) -> tuple[str, ...]:
        return self._bank.selector.names

    def learn(self, shard: str, slot: int, value: float) -> None:
        """One value of one shard; see `learn_many`."""
        self.learn_many(slot, {shard: value})

    def learn_many(self, slot: int, values: Mapping[str, float]) -> None:
        """The values of one complete slot by shard, in the unit to be forecast, >= 0.

        A slot that a shard has learned already, or an older one, is ignored and counted in
        `stale_count`: add up the reports of several instances about a slot before learning it.
        """
        for shard, value in values.items():
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(
                    f"value of shard {shard!r} is {value}, the limit is >= 0 and finite"
                )
        names, rows, taken = [], [], []
        for shard, value in values.items():
            row = self._rows.get(shard)
            if row is None:
                row = self._row_for(shard, slot)
                if self._cold is not None:
                    self._first[shard] = slot
                    self._young.add(shard)
            gap = slot - int(self._bank.history.last[row]) - 1
            if gap < 0:
                self.stale_count += 1
                continue
            if gap > 0:
                self._fill(row, slot, gap)
            names.append(shard)
            rows.append(row)
            taken.append(self._usual(shard, row, slot, float(value)))
        if rows:
            at = np.array(rows, dtype=np.int64)
            if self.anomalies is not None:
                self.anomalies.learn(slot, names, taken, self._bank.expected(at))
            self._bank.step(at, np.array(taken))
        if self._young:
            self._borrow(slot, values)

    def forecast(self, shard: str, horizon_slots: int, now_slot: int) -> Forecast:
        """Slots `now_slot + 1` to `now_slot + horizon_slots`; see `forecast_many`."""
        return self.forecast_many((shard,), horizon_slots, now_slot)[shard]

    def forecast_many(
        self, shards: Sequence[str], horizon_slots: int, now_slot: int
    ) -> dict[str, Forecast]:
        """Forecasts for the slots after `now_slot`, the last complete one, by shard.

        A shard whose newest value is older is forecast over the gap too (at most LAG_SLOTS_MAX);
        one that is newer has `made_at_slot` after `now_slot`. ValueError for an unknown shard or a
        horizon out of bounds.
        """
        if not 1 <= horizon_slots <= HORIZON_SLOTS_MAX:
            raise ValueError(
                f"horizon_slots is {horizon_slots}, the limit is 1 to {HORIZON_SLOTS_MAX}"
            )
        by_lag: dict[int, list[str]] = {}
        for shard in shards:
            last = int(self._bank.history.last[self._known(shard)])
            by_lag.setdefault(min(max(0, now_slot - last), LAG_SLOTS_MAX), []).append(shard)
        found: dict[str, Forecast] = {}
        for lag, group in by_lag.items():
            found.update(self._forecast_group(group, horizon_slots, lag, now_slot))
        return found

    def said(self, shards: Sequence[str]) -> BankForecast:
        """The forecasts at the scored horizons from when the newest slot of each shard was learned.

        Of every model and of the ensemble, in the order of `model_names`, rows as `shards`; for
        benchmarks that score models separately. Held in single precision.
        """
        rows = np.array([self._known(shard) for shard in shards], dtype=np.int64)
        return self._bank.said(rows)

    def score(self, shard: str | None = None) -> dict[str, dict[int, Score]]:
        """By model, `ensemble` (the blend) and `spoken` (the published forecast), and by horizon.

        Of one shard since its beginning, or of all, forgotten ones included.
        """
        return self._bank.scores.score(None if shard is None else self._known(shard))

    def trend(self, shard: str) -> LoadTrend:
        """Where the load of the shard is going: average, deviation, drift of its last slots."""
        return trend_of(self._bank.history.series(self._known(shard)))

    def weights(self, shard: str) -> dict[str, float]:
        """The models in the shard's forecast of the next slot, and their weights."""
        return self._bank.selector.shares(self._known(shard))

    def reset_score(self) -> None:
        """Start the score again, for example after the first weeks; the models stay."""
        self._bank.scores.reset()

    def inherit(self, parent: str, child: str, share: float) -> None:
        """Start `child` as `share` (0 to 1] of the state of `parent`: a split, a cold start."""
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share of {child!r} is {share}, the limit is 0 to 1")
        if child in self._rows:
            raise ValueError(f"shard {child!r} is known already")
        source = self._known(parent)
        row = self._row_for(child, int(self._bank.history.last[source]) + 1)
        self._bank.copy(source, row, share)

    def forget(self, shard: str) -> None:
        """Free the state of the shard (its scores stay in the sums); unknown ones are ignored."""
        row = self._rows.pop(shard, None)
        self._first.pop(shard, None)
        self._young.discard(shard)
        if self.anomalies is not None:
            self.anomalies.forget(shard)
        if self._announced is not None:
            self._announced.forget(shard)
        if row is not None:
            self._free.append(row)

    def __contains__(self, shard: str) -> bool:
        return shard in self._rows

    def rewind(self, shards: Iterable[str], newest: int) -> list[str]:
        """Forget the values of slots after `newest`, which a wrong clock opened. Returns the shards
        without any value left, which are forgotten."""
        wrong = [s for s in shards if s in self._rows and self.last_slot(s) > newest]
        kept: dict[str, dict[str, Any]] = {}
        for shard in wrong:
            state = self.state(shard)
            good = len(state["values"]) - (state["last_slot"] - newest)
            if good > 0:
                kept[shard] = {**state, "values": state["values"][:good], "last_slot": newest}
            self.forget(shard)
        self.restore(kept)
        return [shard for shard in wrong if shard not in kept]

    def last_slot(self, shard: str) -> int:
        """The newest slot learned of the shard."""
        return int(self._bank.history.last[self._known(shard)])

    def state(self, shard: str) -> dict[str, Any]:
        """The state of the shard, of JSON types: about 40 KB at the default seasons."""
        row = self._known(shard)
        bank = self._bank
        return {
            "last_slot": int(bank.history.last[row]),
            "values": bank.history.series(row).tolist(),
            "selector": bank.selector.state(row),
            "intervals": bank.intervals.state(row),
            "mixture": bank.mixture.state(row),
            "change": bank.change.state(row),
            "scores": bank.scores.state(row),
        }

    def restore(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore saved states by shard. Forecasts that were waiting for their slot are not
        scored."""
        rows: list[int] = []
        series: list[FloatArray] = []
        for shard, state in states.items():
            if shard in self._rows:
                raise ValueError(f"shard {shard!r} is known already")
            values = np.array(state["values"], dtype=np.float64)[-self._bank.history.depth :]
            row = self._row_for(shard, int(state["last_slot"]) + 1 - len(values))
            self._bank.selector.restore(row, dict(state["selector"]))
            self._bank.intervals.restore(row, dict(state["intervals"]))
            if "mixture" in state:
                self._bank.mixture.restore(row, dict(state["mixture"]))
            if "change" in state:
                self._bank.change.restore(row, dict(state["change"]))
            if "scores" in state:
                self._bank.scores.restore(row, dict(state["scores"]))
            rows.append(row)
            series.append(values)
        for i in range(max((len(values) for values in series), default=0)):
            live = [k for k, values in enumerate(series) if i < len(values)]
            self._bank.absorb(
                np.array([rows[k] for k in live]), np.array([series[k][i] for k in live])
            )

    def _known(self, shard: str) -> int:
        row = self._rows.get(shard)
        if row is None:
            raise ValueError(f"shard {shard!r} is not known: nothing was learned of it")
        return row

    def _row_for(self, shard: str, first_slot: int) -> int:
        if len(self._rows) >= self.shards_max:
            raise ValueError(f"shards is {len(self._rows) + 1}, the limit is {self.shards_max}")
        if not self._free:
            grown = min(max(8, 2 * self._room), self.shards_max)
            self._bank.grow(grown)
            self._free = list(range(grown - 1, self._room - 1, -1))
            self._room = grown
        row = self._rows[shard] = self._free.pop()
        self._bank.start(row, first_slot)
        return row

    def _fill(self, row: int, slot: int, gap: int) -> None:
        at = np.array([row])
        if gap >= self._bank.history.depth:
            self._bank.start(row, slot)
            return
        self.filled_count += gap
        for _ in range(gap):
            said = self._bank.say(at, np.array([1]))
            self._bank.absorb(at, said.mean[:, 0])

    def _borrow(self, slot: int, values: Mapping[str, float]) -> None:
        """Let young shards borrow models from the cluster that fits them (`ColdStart`)."""
        cold = self._cold
        if cold is None:
            return
        due = {}
        for shard in self._young.intersection(values):
            age = slot - self._first[shard] + 1
            if cold.due(age) and self.last_slot(shard) == slot:
                due[shard] = age
        self._young -= {s for s in self._young if slot - self._first[s] >= self._season}
        if not due or len(self._young) == len(self._rows):
            return
        old = [row for shard, row in self._rows.items() if shard not in self._young]
        lenders = np.array(sorted(old), dtype=np.int64)
        for shard, age in sorted(due.items()):
            loan = cold.find(self._rows[shard], age, lenders)
            if loan is not None:
                self._bank.borrow(loan.lender, self._rows[shard], loan.share, age)
                self.borrowed_count += 1

    def _usual(self, shard: str, row: int, slot: int, value: float) -> float:
        """The value without the announced events of its slot."""

        def expect() -> float | None:
            if not self._bank.history.count[row]:
                return None
            return float(self._bank.say(np.array([row]), np.array([1])).mean[0, 0])

        if self._announced is None:
            return value
        return self._announced.usual(shard, slot, value, expect)

    def _own_slots(self, shard: str, known: int) -> int:
        """The share of the shard's history that is its own or its parent's."""
        first = self._first.get(shard)
        return known if first is None else min(known, self.last_slot(shard) - first + 1)

    def _forecast_group(
        self, shards: list[str], horizon_slots: int, lag: int, now_slot: int
    ) -> dict[str, Forecast]:
        bank = self._bank
        rows = np.array([self._rows[shard] for shard in shards], dtype=np.int64)
        said = bank.say(rows, np.arange(lag + 1, lag + horizon_slots + 1))
        steps = tuple(range(1, horizon_slots + 1))
        names, count = bank.selector.names, bank.history.count
        ahead = np.arange(lag + 1, lag + horizon_slots + 1)
        levels, mean = said.quantiles, said.mean
        if self._announced is not None:
            slots = bank.history.last[rows][:, None] + ahead
            levels, mean = self._announced.applied(shards, slots, levels, mean)
        bounds = levels[:, :, BOUNDS].transpose(0, 2, 1).tolist()
        quantiles, means = levels.tolist(), mean.tolist()
        speakers = said.speaker.tolist()
        found = {}
        for i, shard in enumerate(shards):
            lower80, upper80, lower95, upper95 = (tuple(bound) for bound in bounds[i])
            found[shard] = Forecast(
                shard=shard,
                made_at_slot=max(now_slot, int(bank.history.last[rows[i]])),
                horizon_slots=steps,
                mean=tuple(means[i]),
                lower80=lower80,
                upper80=upper80,
                lower95=lower95,
                upper95=upper95,
                model=tuple(names[m] for m in speakers[i]),
                levels=LEVELS,
                quantiles=tuple(tuple(at) for at in quantiles[i]),
                learned_slots=self._own_slots(shard, int(count[rows[i]])),
            )
        return found
