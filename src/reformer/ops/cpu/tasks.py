"""Work shared among threads, on up to as many as torch uses. Kernels do not hold the interpreter's lock."""

from collections.abc import Callable, Iterator
from itertools import count
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any, Protocol

import numpy as np
import torch

SHARED_FROM = 8192
"""Tokens from which several threads work on one head; shorter ones lose more by moving rows between cores."""

TOKENS = 1024
"""Tokens of a piece of a shared head."""

RUNS = 16
"""Least runs of a piece of the forward."""

FEW_RUNS = 64
"""Runs of a phase of the backward up to which one thread is enough."""


Phase = tuple[int, Callable[[int], None]]
"""Tasks 0 .. n - 1 that may run at the same time: n, and what runs one."""


def run_phases(phases: list[Phase], threads: int) -> None:
    """Run one phase after another on up to so many threads; the first exception is raised here."""
    numbers, failures = [count() for _ in phases], list[BaseException]()
    team = max(1, min(threads, max(tasks for tasks, _ in phases)))
    together = Barrier(team)

    def work() -> None:
        try:
            for (tasks, run), following in zip(phases, numbers, strict=True):
                while not failures and (number := next(following)) < tasks:
                    run(number)
                together.wait()
        except BrokenBarrierError:
            pass  # another thread has failed
        except BaseException as failure:  # Ctrl-C too: the other threads stop behind the task in hand
            failures.append(failure)
            together.abort()

    others = [Thread(target=work, daemon=True) for _ in range(team - 1)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()
    if failures:
        raise failures[0]


def run_tasks(tasks: int, run: Callable[[int], None]) -> None:
    """Call `run` with 0 .. tasks - 1 on up to torch's number of threads; the first exception is raised here."""
    run_phases([(tasks, run)], torch.get_num_threads())


def pieces_of(first: int, last: int, size: int, run: Callable[[int, int], None]) -> Phase:
    """The pieces of [first, last) as tasks that call `run` with where they begin and end."""
    tasks = -(-(last - first) // size)
    return tasks, lambda i: run(first + i * size, min(first + (i + 1) * size, last))


class HeadWork(Protocol):
    """What is computed for one (batch, head): token by token, then run by run, then token by token."""

    def begin(self, first: int, last: int) -> None: ...
    def work(self) -> None: ...
    def phases(self, threads: int) -> list[Phase]: ...
    def finish(self, first: int, last: int) -> None: ...


def run_heads(heads: int, length: int, head_of: Callable[[int], HeadWork]) -> None:
    """Compute all heads: as many as go evenly among the threads by one each, the others by several threads each.

    Either way gives the same bits: phases do what `work` does, in the same order for every token.
    """
    whole = whole_heads(heads, length)
    team = torch.get_num_threads() // max(heads - whole, 1)

    def alone(number: int) -> None:
        head = head_of(number)
        head.begin(0, length)
        head.work()
        head.finish(0, length)

    def together(number: int) -> None:
        head = head_of(whole + number)
        begin, finish = (pieces_of(0, length, TOKENS, run) for run in (head.begin, head.finish))
        run_phases([begin, *head.phases(team), finish], team)

    run_tasks(whole, alone)
    run_tasks(heads - whole, together)


def whole_heads(heads: int, length: int) -> int:
    """How many heads are one task each; several threads work on each of the others, if they are long enough."""
    return heads if length < SHARED_FROM else heads - heads % torch.get_num_threads()


def rounds_of(runs: Any) -> Iterator[tuple[int, int]]:
    """The runs of each round, from first to last."""
    first = 0
    for last in (np.flatnonzero(np.diff(runs[:, 4], append=-1)) + 1).tolist():
        yield first, last
        first = last
