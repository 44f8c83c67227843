"""The one thread that owns the model; the event loop never waits for a training step."""

import asyncio
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

SWITCH_S = 2e-4
"""How long a thread keeps the interpreter when another one waits for it. Python's own 5 ms are a tenth of a training
step's time beside swaps without pause: the step asks for it a few times."""
NICER = 5
"""Of two threads that want one CPU, the one with a niceness five higher gets a quarter of it."""
HELD_UP = 10
"""A step that takes so many times what the quickest took was held up by something else than its work: a process that
was suspended, a machine that was asleep. A slower device would have slept no longer."""


class ThreadCompute:
    """`ports.Compute` on a worker thread. `speed` in (0, 1] makes the node as slow as a slower device, `step_s` as slow
    as one that needs so long for a training step."""

    def __init__(self, speed: float = 1.0, threads: int | None = None, step_s: float = 0.0) -> None:
        assert 0 < speed <= 1
        self.speed, self.step_s = speed, step_s
        self._due = 0.0
        """When the last step was to end."""
        self._took_s = 0.0
        """How long the last step took, as the best guess for the next."""
        self._quickest_s = math.inf
        # OpenMP keeps the number of threads per calling thread, so the worker has to set its own.
        prepare = (lambda: torch.set_num_threads(threads)) if threads else None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compute", initializer=prepare)
        self._pool.submit(lambda: None)  # now it exists, whatever priority its maker takes on

    async def run(self, work: Callable[[], T]) -> T:
        """A cancelled caller is let go at once; work that has begun is finished all the same."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def train(self, work: Callable[[], T]) -> T:
        """As `run`, but first the caller, not the thread, is held for what a slower device would need besides: its
        step, too, ends with the model's update, and then there is a whole step's time for swaps until the next."""
        loop = asyncio.get_running_loop()
        # What came between two steps is made up for, up to one of them: the pace is a device's, not the machine's.
        self._due = max(self._due, loop.time() - self.step_s) + self.step_s
        rest = max(self._took_s * (1 / self.speed - 1), self._due - self._took_s - loop.time())
        if rest > 0:
            await asyncio.sleep(rest)
        seconds, result = await self.run(lambda: _timed(work))
        self._quickest_s = min(self._quickest_s, seconds)
        self._took_s = min(seconds, HELD_UP * self._quickest_s)
        return result

    async def aside(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)

    def close(self) -> None:
        """Drop work that has not begun, and wait for the piece under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def give_way(never_waits: bool = False) -> None:
    """From now on this thread, and those it starts, leave the CPU to training when both want it, and all threads the
    interpreter to each other sooner. `never_waits`: training fills a CPU, which the others keep out of.

    Swaps move tens of megabytes, and on a machine with few cores training otherwise waits for that. Priorities and
    CPUs on Linux alone: elsewhere only processes have them. Nodes that share a machine leave different CPUs."""
    sys.setswitchinterval(SWITCH_S)
    if sys.platform == "linux":
        me = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, me, os.getpriority(os.PRIO_PROCESS, me) + NICER)
        cpus = sorted(os.sched_getaffinity(me))
        if never_waits and len(cpus) > 1:
            os.sched_setaffinity(me, set(cpus) - {cpus[os.getpid() % len(cpus)]})


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result
