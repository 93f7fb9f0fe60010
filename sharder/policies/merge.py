"""Join rarely used neighbours of one log on one instance.

Fewer shards mean less to report, plan and keep in memory; the load stays where it is. The bound
(`merge_share`) is far below the threshold at which shards are split, and shards must be older
than `merge_age_s`, so that none is split and joined in turns.
"""

from collections import Counter
from collections.abc import Sequence

from sharder.draft import Draft
from sharder.operators import Crossing, Refusal
from sharder.policies.upkeep import may_move, operator, peak_use_of
from sharder.reasons import Reason


def propose(draft: Draft, hot: Sequence[tuple[int, Crossing]]) -> None:
    """Pairs of rarely used neighbours, by log and key."""
    count = Counter(s.log for s in draft.table.shards)
    left = draft.config.upkeep_operators_max
    for a, b in _neighbours(draft):
        if left <= 0:
            return
        if a in draft.moved or b in draft.moved:
            continue
        why = _merge(draft, a, b, count[draft.table.shards[a].log])
        if why is None:
            left -= 1
            count[draft.table.shards[a].log] -= 1
        else:
            draft.refuse(int(draft.table.home[a]), why)


def _neighbours(draft: Draft) -> list[tuple[int, int]]:
    """(lower, upper) rows of adjoining ranges that both use less than `merge_share`."""
    t = draft.table
    peak = t.mean.max(axis=1)
    cold = peak < draft.config.merge_share * t.capacity[t.home, 0]
    byte_rate = peak * t.ratio
    cold &= byte_rate < draft.config.merge_share * t.capacity[t.home, 1]
    rows = [r for r in cold.nonzero()[0].tolist() if t.shards[r].start is not None]
    starts = {(t.shards[r].log, t.shards[r].start): r for r in rows}
    found = []
    for row in rows:
        end = t.shards[row].end
        upper = starts.get((t.shards[row].log, end)) if end is not None else None
        if upper is not None:
            found.append((row, upper))
    return sorted(found, key=lambda ab: (t.shards[ab[0]].log, t.shards[ab[0]].start or b""))


def _merge(draft: Draft, a: int, b: int, shards: int) -> Refusal | None:
    t, config, home = draft.table, draft.config, int(draft.table.home[a])
    low, high, name = t.shards[a], t.shards[b], t.instances[int(t.home[a])].id
    if t.home[b] != home:
        return Refusal(Reason.NEIGHBOUR_APART, name, low.id, other=high.id)
    if shards <= config.merge_shards_min:
        least = float(config.merge_shards_min)
        return Refusal(Reason.FEW_SHARDS, name, low.id, float(shards), least)
    why = may_move(draft, a, home) or may_move(draft, b, home)
    if why is not None:
        return why
    times = [x for s in (low, high) for x in (s.opened_s, s.last_moved_s) if x is not None]
    young = draft.view.now_s - max(times, default=-1e18)
    if young < config.merge_age_s:
        return Refusal(Reason.TOO_YOUNG, name, low.id, float(young), config.merge_age_s, high.id)
    used = peak_use_of(draft, [a, b], home)
    if used >= config.merge_share or low.bytes + high.bytes > config.merge_bytes_max:
        return Refusal(Reason.TOO_BIG_TOGETHER, name, low.id, used, config.merge_share, high.id)
    reason = (
        f"{low.id} and {high.id} adjoin on {name} and use {used:.1%} of it together: one shard is"
        " enough for both."
    )
    made = operator(draft, "merge", a, home, home, 0.0, reason, copied=False, partner=high.id)
    draft.note(a, made)
    draft.moved.add(b)
    return None
