"""The profiler on your own statistics, without a cluster: `python examples/profiler_alone.py`."""

import math

import numpy as np

from profiler import AccessHeatmap
from profiler.forecast import ForecastBook

DAY_SLOTS = 24
DAYS = 14


def main() -> None:
    dice = np.random.default_rng(seed=1)
    heatmap = AccessHeatmap()
    book = ForecastBook(season_slots=(DAY_SLOTS,))
    for slot in range(DAYS * DAY_SLOTS):
        # A day with its peak at 12:00; one user makes half of the load.
        wave = math.cos(2 * math.pi * slot / DAY_SLOTS)
        load = round(200 - 100 * wave) + int(dice.integers(-5, 6))
        users = [b"user-7" if i % 2 else b"user-%d" % (i % 10) for i in range(load)]
        heatmap.add(users, None, slot)
        book.learn("all", slot, load)

    print("hottest keys:")
    for key, share in heatmap.hottest(2):
        print(f"  {key.decode()}: {share:.0%}")
    half = heatmap.split_key(b"", None)
    print(f"the key that halves the load: {half.decode() if half else None}")

    said = book.forecast("all", DAY_SLOTS, DAYS * DAY_SLOTS - 1)
    noon = said.horizon_slots.index(13)  # the next slot, 1 ahead, begins at midnight
    print(
        f"tomorrow at 12:00: {said.mean[noon]:.0f} operations"
        f" [{said.lower80[noon]:.0f}, {said.upper80[noon]:.0f}]"
    )
    print(f"P(more than 250 then) = {said.prob_above(250, 13):.2f}")


if __name__ == "__main__":
    main()
