"""Many runs in forked processes, with the results in the order of the runs.

A process ends after a few runs, without a look back: its collector is off, since collecting and
freeing what a run leaves costs a tenth of it, and what runs leak dies with it.
"""

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess

import msgspec

from profiler.anomaly import load_adwin
from tests.simulation.corpus import Run
from tests.simulation.run import Result

RUNS_A_PROCESS = 10
"""A run leaves about 13 MB behind."""


def results(
    runs: Sequence[Run], simulate: Callable[[Run], Result], processes: int
) -> Iterator[Result]:
    """The results in the order of `runs`, from so many processes at a time.

    RuntimeError for a process that died. The processes end with the iterator.
    """
    if len(runs) > RUNS_A_PROCESS:
        load_adwin()  # once here, not in each process whose planner meets an anomaly
    starts = iter(range(0, len(runs), RUNS_A_PROCESS))
    working: dict[Connection, _Worker] = {}
    arrived: dict[int, bytes] = {}
    told = 0
    try:
        while told < len(runs):
            while len(working) < processes and (start := next(starts, None)) is not None:
                worker = _Worker(runs, start, simulate)
                working[worker.results] = worker
            for ready in wait(list(working)):
                worker = working[ready]  # type: ignore[index]
                arrived.update(worker.receive())
                if worker.at == worker.stop:
                    del working[worker.results]
                    worker.end()
            while told in arrived:
                yield msgspec.json.decode(arrived.pop(told), type=Result)
                told += 1
    finally:
        for worker in working.values():
            worker.end()


class _Worker:
    """A process for the runs from `start` on."""

    def __init__(self, runs: Sequence[Run], start: int, simulate: Callable[[Run], Result]) -> None:
        self.runs = runs
        self.at, self.stop = start, min(start + RUNS_A_PROCESS, len(runs))
        self.results, theirs = multiprocessing.Pipe(duplex=False)
        self.process = ForkProcess(
            target=_work, args=(runs[start : self.stop], simulate, theirs), daemon=True
        )
        self.process.start()
        theirs.close()

    def receive(self) -> dict[int, bytes]:
        """The next result, by the number of its run."""
        try:
            result = self.results.recv_bytes()
        except EOFError as e:
            raise RuntimeError(f"the process of seed {self.runs[self.at]} died") from e
        self.at += 1
        return {self.at - 1: result}

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.results.close()


def _work(runs: Sequence[Run], simulate: Callable[[Run], Result], results: Connection) -> None:
    """Send each run's result; the story only of one that failed."""
    gc.disable()
    for run in runs:
        result = simulate(run)
        if result.ok:
            result.story = []
        results.send_bytes(msgspec.json.encode(result))
