"""Client groups: a model for each group's part of a shard, profiles that groups announce, and the
reconciliation of the parts with the shard's total."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from profiler.forecast.book import ForecastBook
from profiler.forecast.port import FloatArray
from profiler.types import Forecast

GROUPS_MAX = 1_024
PROFILE_SLOTS_MAX = 100_000
ERROR_RATE = 0.05
TRUST_POWER = 4.0
SEPARATOR = "\x1f"


@dataclass(frozen=True, slots=True)
class UsageProfile:
    """The load that a client group announces: operations in each slot from `first_slot` on.

    Of the whole group, over all shards. With `repeats` the profile starts again at its end (a day's
    or week's rhythm); else it says nothing of slots outside it. `shards` are prefixes of the names
    of its shards; empty: all.
    """

    first_slot: int
    ops: tuple[float, ...]
    repeats: bool = False
    shards: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.ops) <= PROFILE_SLOTS_MAX:
            raise ValueError(
                f"ops has {len(self.ops)} slots, the limit is 1 to {PROFILE_SLOTS_MAX}"
            )
        if not all(0 <= value < float("inf") for value in self.ops):
            raise ValueError("ops has a value out of bounds, the limit is >= 0 and finite")

    def touches(self, shard: str) -> bool:
        return not self.shards or shard.startswith(self.shards)

    def at(self, slots: Sequence[int]) -> FloatArray:
        """Operations in each of `slots`, NaN outside the profile."""
        offset = np.asarray(slots, dtype=np.int64) - self.first_slot
        size = len(self.ops)
        inside = (offset >= 0) if self.repeats else (offset >= 0) & (offset < size)
        found: FloatArray = np.where(inside, np.array(self.ops)[offset % size], np.nan)
        return found


class GroupBook:
    """A ForecastBook of shards and a second one of (shard, client group) parts.

    A profile is trusted from its registration; once its slots come, by its error relative to that
    of the group's own model (both fade). What it adds to the model is added to the group's part
    and to the total: history cannot know it. Then parts and total are made to agree: the gap is
    divided by the variance of each (weighted least squares: Wickramasuriya, Athanasopoulos and
    Hyndman, 2019, with a diagonal matrix), so the less certain one changes more.
    """

    def __init__(self, total: ForecastBook, parts: ForecastBook) -> None:
        self.total, self.parts = total, parts
        self._profiles: dict[str, UsageProfile] = {}
        self._groups: dict[str, set[str]] = {}
        self._share: dict[tuple[str, str], float] = {}
        # (shard, group) -> mean error of the own model and of the profile
        self._error: dict[tuple[str, str], tuple[float, float]] = {}

    def set_profile(self, group: str, profile: UsageProfile | None) -> None:
        """Register the profile of `group`, in place of its previous one; None: remove it."""
        if profile is None:
            self._profiles.pop(group, None)
        elif group not in self._profiles and len(self._profiles) >= GROUPS_MAX:
            raise ValueError(f"profiles is {len(self._profiles) + 1}, the limit is {GROUPS_MAX}")
        else:
            self._profiles[group] = profile
        for key in [key for key in self._error if key[1] == group]:
            del self._error[key]

    def know(self, shards: Iterable[str]) -> None:
        """Shards that a group without any operations yet may use."""
        for shard in shards:
            self._groups.setdefault(shard, set())

    def forget(self, shard: str) -> None:
        """Free the state of the shard and its parts."""
        for group in self._groups.pop(shard, ()):
            self.parts.forget(shard + SEPARATOR + group)
            self._share.pop((shard, group), None)
            self._error.pop((shard, group), None)
        self.total.forget(shard)

    def rewind(self, shards: Collection[str], newest: int) -> list[str]:
        """As `ForecastBook.rewind`, for the shards and their parts."""
        parts = [s + SEPARATOR + g for s in shards for g in self._groups.get(s, ())]
        self.parts.rewind(parts, newest)
        return self.total.rewind(shards, newest)

    def profiles(self) -> dict[str, UsageProfile]:
        return dict(self._profiles)

    def state(self) -> dict[str, Any]:
        """Profiles, trust, shares and the models of the parts, of JSON types; empty while no
        profile is registered."""
        if not self._profiles:
            return {}
        return {
            "profiles": {
                group: [p.first_slot, list(p.ops), p.repeats, list(p.shards)]
                for group, p in self._profiles.items()
            },
            "shares": [[*key, float(share)] for key, share in self._share.items()],
            "errors": [[*key, *map(float, errors)] for key, errors in self._error.items()],
            "groups": {shard: sorted(groups) for shard, groups in self._groups.items()},
            "parts": {name: self.parts.state(name) for name in self.parts.shards},
        }

    def restore(self, state: Mapping[str, Any], shards: Collection[str]) -> None:
        """Restore a saved state, of `shards` only, before anything is learned."""
        if not state:
            return
        for group, (first_slot, ops, repeats, prefixes) in state["profiles"].items():
            self.set_profile(group, UsageProfile(first_slot, tuple(ops), repeats, tuple(prefixes)))
        self._share.update({(s, g): share for s, g, share in state["shares"] if s in shards})
        self._error.update({(s, g): (o, p) for s, g, o, p in state["errors"] if s in shards})
        for shard, groups in state["groups"].items():
            if shard in shards:
                self._groups.setdefault(shard, set()).update(groups)
        kept = {n: m for n, m in state["parts"].items() if n.split(SEPARATOR)[0] in shards}
        self.parts.restore(kept)

    def learn(self, slot: int, parts: Mapping[str, Mapping[str, float]]) -> None:
        """One slot: shard -> client group -> operations. The shard's total is their sum.

        A known group that is missing did nothing. New groups beyond GROUPS_MAX of a
        shard, or beyond the room of the book of the parts, count only in the total.
        """
        by_part: dict[str, float] = {}
        room = self.parts.shards_max - len(self.parts.shards)
        for shard, by_group in parts.items():
            groups = self._groups.setdefault(shard, set())
            for group in by_group.keys() - groups:
                if len(groups) < GROUPS_MAX and room > 0:
                    groups.add(group)
                    room -= 1
            for group in groups:
                value = float(by_group.get(group, 0.0))
                self._judge(shard, group, slot, value)
                by_part[shard + SEPARATOR + group] = value
        self._learn_shares(parts)
        self.parts.learn_many(slot, by_part)
        self.total.learn_many(
            slot, {shard: float(sum(by_group.values())) for shard, by_group in parts.items()}
        )

    def forecast(
        self, shard: str, horizon_slots: int, now_slot: int
    ) -> tuple[Forecast, dict[str, Forecast]]:
        """The shard's total and its groups' parts, which add up to it at every step."""
        total = self.total.forecast(shard, horizon_slots, now_slot)
        groups = sorted(self._groups.get(shard, ()))
        named = {group: shard + SEPARATOR + group for group in groups}
        each = self.parts.forecast_many(list(named.values()), horizon_slots, now_slot)
        slots = [total.made_at_slot + step for step in total.horizon_slots]
        news = {group: self._news(shard, group, each[named[group]], slots) for group in groups}
        silent = [group for group in self._profiles if group not in named]
        extra = sum((self._unheard(shard, group, slots) for group in silent), np.zeros(len(slots)))
        means = np.array([np.array(each[named[g]].mean) + news[g] for g in groups])
        wanted = np.array(total.mean) + sum(news.values(), np.zeros(len(slots)))
        if not groups:
            return _moved(total, extra), {}
        widths = np.array([_variance(each[named[g]]) for g in groups])
        whole = _variance(total)
        gap = wanted - means.sum(axis=0)
        weight = whole + widths.sum(axis=0) + 1e-12
        parts = np.maximum(means + gap * widths / weight, 0.0)
        moved = parts.sum(axis=0) + extra - np.array(total.mean)
        found = {
            group: _moved(each[named[group]], parts[i] - np.array(each[named[group]].mean))
            for i, group in enumerate(groups)
        }
        return _moved(total, moved), found

    def trust(self, shard: str, group: str) -> float:
        """The weight of the group's profile against its own model, 0 to 1."""
        if group not in self._profiles:
            return 0.0
        own, profile = self._error.get((shard, group), (1.0, 0.0))
        if own <= 0 and profile <= 0:
            return 1.0
        return float(own**TRUST_POWER / (own**TRUST_POWER + profile**TRUST_POWER))

    def _news(self, shard: str, group: str, said: Forecast, slots: Sequence[int]) -> FloatArray:
        """What the group's profile adds to its own model."""
        profile = self._profiles.get(group)
        if profile is None or not profile.touches(shard):
            return np.zeros(len(slots))
        expected = profile.at(slots) * self._share.get((shard, group), 1.0)
        gap = np.where(np.isnan(expected), 0.0, expected - np.array(said.mean))
        return np.asarray(self.trust(shard, group) * gap)

    def _unheard(self, shard: str, group: str, slots: Sequence[int]) -> FloatArray:
        """A group without any operations yet: its profile, in equal parts over its known shards."""
        profile = self._profiles[group]
        if not profile.touches(shard):
            return np.zeros(len(slots))
        heard = [s for s, groups in self._groups.items() if group in groups]
        if heard:  # the group uses other shards
            return np.zeros(len(slots))
        expected = profile.at(slots) / max(1, sum(profile.touches(s) for s in self._groups))
        return np.where(np.isnan(expected), 0.0, expected)

    def _judge(self, shard: str, group: str, slot: int, value: float) -> None:
        profile, name = self._profiles.get(group), shard + SEPARATOR + group
        if profile is None or name not in self.parts.shards:
            return
        expected = profile.at([slot])[0] * self._share.get((shard, group), 1.0)
        if np.isnan(expected) or self.parts.last_slot(name) != slot - 1:
            return
        own = abs(value - self.parts.forecast(name, 1, slot - 1).mean[0])
        held = self._error.get((shard, group), (own, abs(value - expected)))
        self._error[shard, group] = (
            held[0] + ERROR_RATE * (own - held[0]),
            held[1] + ERROR_RATE * (abs(value - expected) - held[1]),
        )

    def _learn_shares(self, parts: Mapping[str, Mapping[str, float]]) -> None:
        """The share of a group's operations that each shard gets; fades like the errors."""
        sums: dict[str, float] = {}
        for by_group in parts.values():
            for group, value in by_group.items():
                sums[group] = sums.get(group, 0.0) + value
        for shard, by_group in parts.items():
            for group, value in by_group.items():
                if sums[group] > 0:
                    share = value / sums[group]
                    held = self._share.get((shard, group), share)
                    self._share[shard, group] = held + ERROR_RATE * (share - held)


def _variance(said: Forecast) -> FloatArray:
    width: FloatArray = np.array(said.upper80) - np.array(said.lower80)
    return width * width + 1e-9


def _moved(said: Forecast, by: FloatArray) -> Forecast:
    """The forecast with its whole distribution moved, never below 0."""

    def move(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(np.maximum(np.array(values) + by, 0.0).tolist())

    return replace(
        said,
        mean=move(said.mean),
        lower80=move(said.lower80),
        upper80=move(said.upper80),
        lower95=move(said.lower95),
        upper95=move(said.upper95),
        quantiles=tuple(
            tuple(max(0.0, value + float(step)) for value in at)
            for at, step in zip(said.quantiles, by, strict=True)
        ),
    )
