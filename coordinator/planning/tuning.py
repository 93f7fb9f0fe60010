"""The planner's settings: those of the coordinator's start, and over them those set live.

The metadata holds what was set live, with who changed it and when; each plan reads it. So a change
acts in the next plan of every cell, and survives restarts and changes of leader.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog
from msgspec import UNSET

from coordinator.answers.plans import PlannerChange, PlannerSetting, PlannerSettings
from coordinator.config import Autopilot, CoordinatorConfig
from logstore.base.env import Env
from logstore.base.errors import InvalidArgumentError
from logstore.base.names import checked_name
from logstore.meta.port import MetadataStore
from logstore.meta.records import LiveSetting, PlannerRecord, SettingChange
from logstore.meta.table import Entry
from logstore.meta.tables import planner_table
from profiler.forecast.book import HORIZON_SLOTS_MAX
from sharder.config import PlanMode, PlannerConfig, RiskConfig
from sharder.tuning import Tunable, parsed, tunable, tunables, tuned, value_of

RECORD = "settings"
CHANGES_MAX = 500
"""Changes that are kept, the newest."""
MERGE_PERIODS = 6
"""Planning periods that neighbours must have been cold, and a split be past, before a merge."""
_log = structlog.get_logger(__name__)


def planner_config(config: CoordinatorConfig, autopilot: Autopilot) -> PlannerConfig:
    """Without the policy `drain`: `replicas.drain` and repair empty instances, also while the
    autopilot is off. The planner moves nothing onto a draining instance in either case."""
    mode = PlanMode.ACTIVE if autopilot is Autopilot.ON else PlanMode.DRY_RUN
    return PlannerConfig(
        mode=mode,
        risk=RiskConfig(threshold=config.threshold),
        seed=config.seed,
        horizon_periods=config.horizon_slots,
        hysteresis=config.hysteresis,
        cooldown_s=config.cooldown_s or 0.0,
        flip_back_s=config.flip_back_s or 0.0,
        merge_age_s=MERGE_PERIODS * config.planning_period_s,
        merge_cold_s=MERGE_PERIODS * config.planning_period_s,
        margin_periods=config.margin_periods,
        operators_in_flight_max=config.moves_max,
        policies=tuple(name for name in PlannerConfig().policies if name != "drain"),
    )


class PlannerTuning:
    """The planner's settings of one store, over those that this coordinator started with."""

    def __init__(self, config: CoordinatorConfig, env: Env, store: MetadataStore) -> None:
        self._config, self._env = config, env
        self._table = planner_table(store)

    async def config(self, mode: Autopilot) -> PlannerConfig:
        """What the next plan is made with.

        What was set live does not count while it does not fit to the coordinator's own settings.
        """
        made, problem = _applied(planner_config(self._config, mode), await self._record())
        if problem:
            _log.warning("settings of the planner are not used", why=problem)
        return made

    async def settings(self, *, history: bool = False) -> PlannerSettings:
        """All settings as they are; with `history` also the changes, oldest first."""
        record = await self._record()
        start = planner_config(self._config, Autopilot.ON)
        made, problem = _applied(start, record)
        usual = PlannerConfig()
        rows = []
        for name, setting in tunables().items():
            live = record.settings.get(name)
            at_start = value_of(start, setting)
            of_start = at_start != value_of(usual, setting) and name != "policies"
            rows.append(
                PlannerSetting(
                    name=name,
                    value=value_of(made, setting),
                    unit=setting.limits.unit.strip("()"),
                    bounds=setting.bounds,
                    source="live" if live else "start" if of_start else "default",
                    at_start=at_start,
                    by=live.by if live else "",
                    at_us=live.at_us if live else None,
                )
            )
        changes = [_change(c) for c in record.changes] if history else UNSET
        return PlannerSettings(settings=rows, problem=problem, changes=changes)

    async def change(
        self, values: Mapping[str, object], resets: Sequence[str], by: str
    ) -> PlannerSettings:
        """Set `values` and reset `resets` in one write; the answer has them alone, as they are now.

        `by`: who does, for the history. InvalidArgumentError names setting, value and bounds, and
        nothing is written then.
        """
        checked_name("by", by)
        wanted, back = _checked(values, resets)
        start, now_us = planner_config(self._config, Autopilot.ON), self._env.clock.wall_us()

        def decide(found: Entry[PlannerRecord] | None) -> PlannerRecord:
            record = found.record if found is not None else PlannerRecord()
            return _changed(record, start, wanted, back, by, now_us)

        await self._table.update(RECORD, decide, "the planner's settings")
        touched = {*wanted, *back}
        told = await self.settings()
        shown = [row for row in told.settings if row.name in touched]
        return PlannerSettings(settings=shown, problem=told.problem)

    async def _record(self) -> PlannerRecord:
        return await self._table.get(RECORD) or PlannerRecord()


def _applied(start: PlannerConfig, record: PlannerRecord) -> tuple[PlannerConfig, str]:
    """`start` with what was set live; or `start` alone, and why."""
    known = tunables()
    values = {name: live.value for name, live in record.settings.items() if name in known}
    try:
        return tuned(start, values), ""
    except ValueError as e:
        return start, str(e)


def _checked(
    values: Mapping[str, object], resets: Sequence[str]
) -> tuple[dict[str, LiveSetting], list[str]]:
    """Full names and legal values of what is set, and full names of what is reset."""
    wanted: dict[str, LiveSetting] = {}
    try:
        for name, given in values.items():
            setting = tunable(name)
            if setting.name in wanted:
                raise ValueError(f"{setting.name} is set twice, it must be set once")
            wanted[setting.name] = LiveSetting(_legal(setting, given), "", 0)
        back = [tunable(name).name for name in resets]
    except ValueError as e:
        raise InvalidArgumentError(str(e)) from None
    for name in back:
        if name in wanted:
            raise InvalidArgumentError(f"{name} is set and reset, it must be one of them")
    if not wanted and not back:
        raise InvalidArgumentError("nothing is set or reset: give NAME=VALUE, or names to reset")
    return wanted, back


def _legal(setting: Tunable, given: object) -> float | int | str | tuple[str, ...] | None:
    value = parsed(setting, given)
    if setting.name == "horizon_periods" and isinstance(value, int) and value > HORIZON_SLOTS_MAX:
        raise ValueError(
            f"horizon_periods is {value}, it must be within 1..{HORIZON_SLOTS_MAX}: no forecast"
            " goes further"
        )
    return value


def _changed(
    record: PlannerRecord,
    start: PlannerConfig,
    wanted: Mapping[str, LiveSetting],
    back: Sequence[str],
    by: str,
    now_us: int,
) -> PlannerRecord:
    """The record after a change; InvalidArgumentError when the settings do not fit together."""
    before, _ = _applied(start, record)
    settings = dict(record.settings)
    changes = list(record.changes)
    for name, live in wanted.items():
        old = value_of(before, tunable(name))
        if old != live.value or name not in settings:
            changes.append(SettingChange(now_us, by, name, old, live.value))
            settings[name] = replace(live, by=by, at_us=now_us)
    for name in back:
        if settings.pop(name, None) is not None:
            old, new = value_of(before, tunable(name)), value_of(start, tunable(name))
            changes.append(SettingChange(now_us, by, name, old, new, reset=True))
    after = PlannerRecord(settings, tuple(changes[-CHANGES_MAX:]))
    _, problem = _applied(start, after)
    if problem:
        raise InvalidArgumentError(problem)
    return after


def _change(change: SettingChange) -> PlannerChange:
    return PlannerChange(
        at_us=change.at_us,
        by=change.by,
        name=change.name,
        old=change.old,
        new=change.new,
        reset=change.reset,
    )
