"""Runs calls in several processes of this machine. Each process has a number, from 0."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from typing import TypeVar

from kinegraph.cache_schemas import stopping

Job = TypeVar("Job")
Result = TypeVar("Result")
_number = 0  # the number of this process


def in_processes(call: Callable[[int, Job], Result], jobs: Sequence[Job], count: int) -> Iterator[Result]:
    """Calls `call(number, job)` for each job, in `count` processes. Yields one result per job, in the order of `jobs`.

    `number` is the number of the process that runs the job, from 0 to `count` - 1. All processes have ended when the
    iterator ends, also if the caller stops early or a signal stops this process. Raises BrokenProcessPool if one of the
    processes dies.
    """
    context = multiprocessing.get_context("spawn")
    process_numbers: SimpleQueue[int] = context.SimpleQueue()
    for process_number in range(count):
        process_numbers.put(process_number)
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_take_number, initargs=(process_numbers,))
    try:
        with stopping.unheard_by_children():
            futures = deque(pool.submit(_with_number, call, job) for job in jobs)
        while futures:
            yield stopping.result(futures.popleft())
    except BrokenProcessPool as error:  # the pool has ended the other processes
        raise BrokenProcessPool(
            f"One of {count} worker processes died. Is there memory for so many (run.workers)? Finished work is kept. "
            "The same command goes on from there."
        ) from error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _take_number(process_numbers: SimpleQueue[int]) -> None:
    global _number
    _number = process_numbers.get()


def _with_number(call: Callable[[int, Job], Result], job: Job) -> Result:
    return call(_number, job)
