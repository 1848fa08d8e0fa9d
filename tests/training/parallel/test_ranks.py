"""The test harness itself: results by rank, tracebacks, deadlocks."""

import os

import pytest
import torch
import torch.distributed as dist

from tests.training.parallel.ranks import RanksFailed, run_ranks


def _sum(rank: int, value: float) -> tuple[int, float, int, int]:
    total = torch.tensor(value * (rank + 1))
    dist.all_reduce(total)
    return rank, float(total), torch.get_num_threads(), os.getpid()


def _raise_on_one(rank: int) -> None:
    if rank == 1:
        raise ValueError("seven is missing")
    dist.barrier()


def _wait_for_nobody(rank: int) -> None:
    if rank == 0:
        dist.barrier()


def _leave(rank: int) -> None:
    dist.destroy_process_group()


def test_results_come_by_rank_and_the_processes_are_used_again():
    first = run_ranks(_sum, 2, 1.5)
    second = run_ranks(_sum, 2, 2.0)
    assert [answer[:3] for answer in first] == [(0, 4.5, 1), (1, 4.5, 1)]
    assert [answer[3] for answer in first] == [answer[3] for answer in second]


def test_a_rank_that_raises_fails_with_its_traceback():
    with pytest.raises(RanksFailed, match=r"rank 1: (.|\n)*seven is missing"):
        run_ranks(_raise_on_one, 2)


def test_a_deadlock_is_a_failure_and_the_next_call_gets_new_processes():
    with pytest.raises(RanksFailed, match="rank 0: no answer within 1 s"):
        run_ranks(_wait_for_nobody, 2, timeout=1)
    assert [answer[1] for answer in run_ranks(_sum, 2, 1.0)] == [3.0, 3.0]


def test_fresh_processes_do_not_touch_the_kept_ones():
    kept = run_ranks(_sum, 2, 1.0)
    run_ranks(_leave, 2, fresh=True)
    assert [answer[3] for answer in run_ranks(_sum, 2, 1.0)] == [answer[3] for answer in kept]
