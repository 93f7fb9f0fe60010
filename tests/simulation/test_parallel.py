"""Runs in forked processes: results in order, and no wait for a process that died."""

import os

import pytest

from tests.simulation.corpus import Run
from tests.simulation.parallel import RUNS_A_PROCESS, results
from tests.simulation.run import Result

RUNS = [Run(seed) for seed in range(2 * RUNS_A_PROCESS + 3)]


def _result(run: Run) -> Result:
    return Result(
        seed=run.seed, mutation=run.mutation, violations=[], coverage=[], triples=[],
        trace=f"{os.getpid()}", operations=1, faults=1, acked=1, unknown=0, moves={}, reshapes={},
        virtual_s=1.0, steps=1, story=["a line"],
    )  # fmt: skip


def _slow_at_first(run: Run) -> Result:
    result = _result(run)
    if run.seed < RUNS_A_PROCESS:
        result.virtual_s += sum(range(100_000))
    return result


def test_results_come_in_the_order_of_the_runs_from_processes_that_end() -> None:
    found = list(results(RUNS, _slow_at_first, 2))
    assert [result.seed for result in found] == [run.seed for run in RUNS]
    processes = [result.trace for result in found]
    assert len(set(processes)) == 3
    assert max(map(processes.count, processes)) == RUNS_A_PROCESS
    assert not any(result.story for result in found)


def test_a_process_that_dies_is_told_with_its_seed() -> None:
    def dies(run: Run) -> Result:
        if run.seed == RUNS_A_PROCESS + 1:
            os._exit(1)
        return _result(run)

    with pytest.raises(RuntimeError, match=f"the process of seed {RUNS_A_PROCESS + 1} died"):
        list(results(RUNS, dies, 2))
