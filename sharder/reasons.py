"""Why a candidate was refused. The numbers are stable: stored plans, tests and docs cite them."""

from enum import IntEnum


class Reason(IntEnum):
    """Numbered reasons; docs/reference/reasons.md has a line for each."""

    BELOW_THRESHOLD = 1
    ALREADY_MIGRATING = 2
    COOLDOWN = 3
    NO_TARGET = 4
    WOULD_NOT_CURE = 5
    NOT_WORTH_IT = 6
    TOO_MANY_OPERATORS = 7
    NOT_ALIVE = 8
    NOT_DUE = 9
    FLIP_BACK = 10
    NOT_BEST = 11
    PINNED = 12
    PASSES_BY_ITSELF = 13
    FORECAST_ONLY = 14
    SEARCH_LIMIT = 15
    NO_PART = 16
    STORAGE_FULL = 17
    NOT_COLD = 18
    NO_SWITCH = 19
    NO_ZONE = 20
    NEIGHBOUR_APART = 21
    TOO_BIG_TOGETHER = 22
    TOO_YOUNG = 23
    FEW_SHARDS = 24
    NO_BETTER_TIER = 25
    PEAKS_COINCIDE = 26
    DRAINED = 27


TEMPLATES: dict[Reason, str] = {
    Reason.BELOW_THRESHOLD: (
        "{instance} keeps its shards: the upper bound of its load peaks at {value:.0%} of capacity,"
        " below the threshold of {limit:.0%}"
    ),
    Reason.ALREADY_MIGRATING: "{shard} on {instance} is already migrating",
    Reason.COOLDOWN: (
        "{shard} on {instance} moved {value:.0f} s ago and stays for {limit:.0f} s (cooldown)"
    ),
    Reason.NO_TARGET: (
        "{shard} stays on {instance}: no other instance would stay under {limit:.0%} of its"
        " capacity with it"
    ),
    Reason.WOULD_NOT_CURE: (
        "{shard} stays on {instance}: without it the load would still exceed the limit by"
        " {value:.0%}"
    ),
    Reason.NOT_WORTH_IT: (
        "{shard} stays on {instance}: moving it gains {value:.2f} and costs {limit:.2f}"
        " overloaded instance-seconds"
    ),
    Reason.TOO_MANY_OPERATORS: (
        "{shard} stays on {instance} for now: {value:.0f} operators are in flight or due,"
        " {limit:.0f} are allowed"
    ),
    Reason.NOT_ALIVE: "{instance} is not alive: nothing is moved off it, nothing is moved to it",
    Reason.NOT_DUE: (
        "the move of {shard} off {instance} is not due yet: it starts at {value:.0f} s,"
        " in {limit:.0f} s"
    ),
    Reason.FLIP_BACK: (
        "{shard} stays on {instance}: the only target with headroom is {other}, which it left"
        " {value:.0f} s ago (no way back for {limit:.0f} s)"
    ),
    Reason.NOT_BEST: "{shard} stays on {instance}: {other} cures it for less, or spares more later",
    Reason.PINNED: "{shard} stays on {instance}: its migration weight is 0",
    Reason.PASSES_BY_ITSELF: (
        "{instance} is or will be over its threshold, but not any more when a move started now"
        " could be finished"
    ),
    Reason.FORECAST_ONLY: (
        "{instance} is forecast to need {value:.0%} of its capacity; the planner is in"
        " forecast-only mode"
    ),
    Reason.SEARCH_LIMIT: (
        "{shard} stays on {instance}: {limit:.0f} better candidates were tried for a target first"
    ),
    Reason.NO_PART: (
        "{shard} on {instance} is not split: none of its {value:.0f} learned keys cuts off a part"
        " that helps and that another instance has room for"
    ),
    Reason.STORAGE_FULL: (
        "{instance} stores {value:.0%} of what it may, above the threshold of {limit:.0%}, and no"
        " rarely used shard can be brought elsewhere"
    ),
    Reason.NOT_COLD: (
        "{shard} stays on {instance}, which has to store less: it uses {value:.1%} of the"
        " instance, a rarely used shard less than {limit:.1%}"
    ),
    Reason.NO_SWITCH: (
        "the primary of {shard} stays on {instance}: none of the {value:.0f} instances that hold it"
        " in sync would stay under {limit:.0%} of its capacity with its load"
    ),
    Reason.NO_ZONE: (
        "{shard} has two copies in one zone, one of them on {instance}, and no live instance of"
        " another zone has room for it"
    ),
    Reason.NEIGHBOUR_APART: (
        "{shard} on {instance} is not merged: its neighbour {other} is elsewhere, or has other"
        " copies, and cannot be brought together with it now"
    ),
    Reason.TOO_BIG_TOGETHER: (
        "{shard} on {instance} is not merged with {other}: together they would use {value:.1%} of"
        " what a merged shard may ({limit:.1%} of the instance, or `merge_bytes_max`)"
    ),
    Reason.TOO_YOUNG: (
        "{shard} on {instance} is not merged with {other}: one of them was opened or moved"
        " {value:.0f} s ago and they stay apart for {limit:.0f} s"
    ),
    Reason.FEW_SHARDS: (
        "{shard} on {instance} is not merged: its log has {value:.0f} shards and keeps {limit:.0f}"
    ),
    Reason.NO_BETTER_TIER: (
        "{shard} is hot and stays on {instance}: no faster or more reliable instance has room"
    ),
    Reason.PEAKS_COINCIDE: (
        "{shard} on {instance} is used together with {other} (correlation {value:.2f}) and stays"
        " apart: both on one instance would bring it over {limit:.0%} of its capacity"
    ),
    Reason.DRAINED: "{instance} is draining and holds no shard any more: it can be removed",
}
