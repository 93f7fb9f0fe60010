"""`make soak-cluster MINUTES=30`: mixed faults under load, by a seeded schedule, then the judge.

Runs inside the namespaces that `python -m tests.cluster soak` makes. Prints a line a fault and, at
the end, a table; exit status 1 on any violation, on a cluster that does not get whole again, or on
a process that ended by itself.
"""

import argparse
import asyncio
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.__main__ import INSIDE
from tests.cluster.cluster import COORDINATORS, ETCD, INSTANCES, Cluster, NotConverged
from tests.cluster.judge import MetadataWatch, judge
from tests.cluster.load import Load, Rates
from tests.cluster.network import Pair
from tests.support.history.record import Recorder

LOG = "soak"
HELD_S = (2.0, 8.0)
"""How long a fault that lasts is held."""
CALM_S = (1.0, 6.0)
"""Between the end of one fault and the next."""
ACK_LIMIT_S = 60.0


@dataclass(slots=True)
class Kind:
    """One kind of fault: how often, and the seconds until every shard acked again, since the fault
    began (for a kill) or was healed."""

    count: int = 0
    ack_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)


class Soak:
    """`dice` decides everything that is done; times are the machine's."""

    def __init__(self, cluster: Cluster, load: Load, dice: random.Random) -> None:
        self.cluster, self.load, self.dice = cluster, load, dice
        self.kinds: dict[str, Kind] = defaultdict(Kind)
        self.stopped: list[str] = []
        self._faults: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "kill primary": (6, self._kill_primary),
            "kill instance": (3, self._kill_instance),
            "freeze instance": (3, self._freeze),
            "kill coordinator": (2, self._kill_coordinator),
            "kill etcd member": (2, self._kill_member),
            "partition instances": (3, self._cut_instances),
            "isolate instance": (2, self._isolate),
            "partition instance, etcd": (2, self._cut_etcd),
            "partition instance, coordinators": (1, self._cut_coordinators),
            "lose packets": (2, self._lose),
            "full disk": (2, self._fill),
            "restart instance": (2, self._restart),
            "flap instance": (1, self._flap),
            "restart all": (1, self._restart_all),
        }

    async def run(self, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        names = list(self._faults)
        bag: list[str] = []
        while time.monotonic() < deadline_s:
            if not bag:  # every kind comes once before any is drawn by its weight again
                bag = names + self.dice.choices(names, [self._faults[n][0] for n in names], k=10)
                self.dice.shuffle(bag)
            await self._one(bag.pop())
            await asyncio.sleep(self.dice.uniform(*CALM_S))

    async def _one(self, name: str) -> None:
        kind = self.kinds[name]
        kind.count += 1
        began_s = time.monotonic()
        self.load.recorder.fault(name)
        await self._faults[name][1]()
        healed_s = time.monotonic()
        await self.cluster.heal()
        base_s = began_s if name == "kill primary" else healed_s
        for acks in self.load.acks.values():
            acked_s = await acks.first_after(base_s, ACK_LIMIT_S)
            kind.ack_s.append(acked_s - base_s)
        await self.cluster.whole()
        await self.cluster.converge(LOG, 120.0)
        kind.whole_s.append(time.monotonic() - healed_s)
        print(f"{time.monotonic():.0f} {name}: acks {max(kind.ack_s[-3:]):.2f} s, "
              f"whole {kind.whole_s[-1]:.1f} s", flush=True)  # fmt: skip

    # ---- faults ----------------------------------------------------------------------------

    def _any(self, names: tuple[str, ...]) -> str:
        return self.dice.choice(names)

    async def _held(self) -> None:
        await asyncio.sleep(self.dice.uniform(*HELD_S))

    async def _kill_primary(self) -> None:
        victim, shards = await self.cluster.most_loaded(LOG)
        killed_s = time.monotonic()
        await self.cluster.parties[victim].kill()
        for shard in shards:
            await self.load.acks[shard].first_after(killed_s, ACK_LIMIT_S)

    async def _kill_instance(self) -> None:
        await self.cluster.parties[self._any(INSTANCES)].kill()
        await self._held()

    async def _freeze(self) -> None:
        self.cluster.parties[self._any(INSTANCES)].freeze()
        await self._held()

    async def _kill_coordinator(self) -> None:
        await self.cluster.parties[self._any(COORDINATORS)].kill()
        await self._held()

    async def _kill_member(self) -> None:
        await self.cluster.parties[self._any(ETCD)].kill()
        await self._held()

    async def _cut_instances(self) -> None:
        here, there = self.dice.sample(INSTANCES, 2)
        await self._cut((here,), (there,))

    async def _isolate(self) -> None:
        victim = self._any(INSTANCES)
        rest = tuple(p for p in (*ETCD, *COORDINATORS, *INSTANCES) if p != victim)
        await self._cut((victim,), rest)

    async def _cut_etcd(self) -> None:
        await self._cut((self._any(INSTANCES),), ETCD)

    async def _cut_coordinators(self) -> None:
        await self._cut((self._any(INSTANCES),), COORDINATORS)

    async def _cut(self, here: tuple[str, ...], there: tuple[str, ...]) -> None:
        sides = [here, there]
        self.dice.shuffle(sides)
        one_way = self.dice.random() < 0.5
        await self.cluster.network.cut(Pair(sides[0], sides[1], one_way))
        await self._held()

    async def _lose(self) -> None:
        await self.cluster.network.lose((*ETCD, *COORDINATORS, *INSTANCES), 0.2)
        await self._held()

    async def _fill(self) -> None:
        self.cluster.fill_disk(self._any(INSTANCES))
        await self._held()

    async def _restart(self) -> None:
        await self.cluster.parties[self._any(INSTANCES)].stop()

    async def _flap(self) -> None:
        party = self.cluster.parties[self._any(INSTANCES)]
        for _ in range(3):
            await party.kill()
            await party.start()
            async with asyncio.timeout(30):
                await party.ready.wait()

    async def _restart_all(self) -> None:
        await asyncio.gather(*(party.kill() for party in self.cluster.parties.values()))

    # ---- the end ---------------------------------------------------------------------------

    def table(self) -> str:
        head = f"{'fault':34}{'times':>6}{'acks p50':>10}{'p99':>8}{'max':>8}{'whole max':>11}"
        lines = [head]
        for name, kind in sorted(self.kinds.items()):
            acks = [at(kind.ack_s, s) for s in (0.5, 0.99, 1.0)]
            whole = at(kind.whole_s, 1.0)
            lines.append(f"{name:34}{kind.count:>6}{acks[0]:>10.2f}{acks[1]:>8.2f}{acks[2]:>8.2f}"
                         f"{whole:>11.1f}")  # fmt: skip
        every = [s for kind in self.kinds.values() for s in kind.ack_s]
        p50, p99, most = (at(every, share) for share in (0.5, 0.99, 1.0))
        count = sum(kind.count for kind in self.kinds.values())
        lines.append(f"{'all':34}{count:>6}{p50:>10.2f}{p99:>8.2f}{most:>8.2f}")
        return "\n".join(lines)


def at(samples: list[float], share: float) -> float:
    """The sample at this share of them; not a number when there is none."""
    if not samples:
        return float("nan")
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def soak(folder: Path, minutes: float, seed: int, rates: Rates) -> int:
    cluster = Cluster(folder)
    watch = MetadataWatch(cluster)
    recorder = Recorder(folder / "histories" / f"{LOG}.jsonl")
    try:
        await cluster.start()
        await watch.start()
        load = Load(cluster.addresses, LOG, recorder, rates=rates, seed=seed)
        run = Soak(cluster, load, random.Random(seed))
        trouble = ""
        async with load:
            await cluster.converge(LOG)
            began_s = time.monotonic()
            try:
                await run.run(minutes * 60)
            except (NotConverged, TimeoutError, RuntimeError, OSError) as e:
                trouble = f"{type(e).__name__}: {e}"
                print(cluster.disks())
            took_s = time.monotonic() - began_s
            if not trouble:
                await load.finish()
                verdict, _ = await judge(cluster, load, watch)
            counts = load.counts
        print(run.table())
        print(
            f"seed {seed}, {took_s / 60:.1f} min, {counts.calls} appends: {counts.acked} acked, "
            f"{counts.conflicts} conflicts, {counts.unknown} unknown, {counts.refused} refused, "
            f"{counts.held_back} held back; {counts.reads} reads, {counts.reads_failed} failed; "
            f"{counts.tails_failed} tails failed"
        )
        if trouble:
            print(f"the cluster did not get whole again: {trouble}")
            return 1
        print(f"history: {verdict.sentence()}")
        for violation in verdict.violations[:20]:
            print(f"  {violation.invariant}: {violation.text}")
        for text in cluster.unexpected:
            print(f"  {text}")
        return 1 if verdict.violations or cluster.unexpected else 0
    finally:
        recorder.close()
        await watch.stop()
        await cluster.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak-cluster", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=40.0, help="appends/s of each producer")
    given = parser.parse_args()
    folder = os.environ.get(INSIDE)
    if folder is None:
        print("error: the soak runs in namespaces of its own: make soak-cluster", file=sys.stderr)
        return 2
    rates = Rates(per_producer=given.rate)
    return asyncio.run(soak(Path(folder), given.minutes, given.seed, rates))


if __name__ == "__main__":
    raise SystemExit(main())
