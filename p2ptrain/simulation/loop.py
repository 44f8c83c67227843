"""An asyncio loop whose clock jumps to the next timer instead of waiting for it, and on which nodes can be stopped.

The same program takes the same steps in the same order, in every process: tasks hash by their number, so that sets of
them iterate alike, and timers due together fire in the order in which they were set.
"""

import asyncio
import gc
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, NoReturn, TypeVar

import torch

T = TypeVar("T")

NODE: ContextVar[str] = ContextVar("NODE", default="")
"""On whose behalf code runs; tasks inherit it. Empty: the world's."""


class Deadlock(RuntimeError):
    """Somebody waits, and nothing is scheduled that could wake them."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs as fast as the work in it; sockets and threads do not exist here."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[tuple[float, int, asyncio.TimerHandle]]
    """A heap of (when, number, timer)."""
    _timer_cancelled_count: int
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        # A float clock that has run for a virtual year cannot resolve asyncio's own nanosecond, and would spin.
        self._clock_resolution = 1e-6
        self._num_tasks = self._num_timers = 0
        self._held: dict[str, deque[asyncio.Handle]] = {}
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:
        raise RuntimeError("threads do not exist in virtual time")

    def pause(self, node: str) -> None:
        """Nothing of this node runs until `resume`, as after SIGSTOP. Never resumed, it is as after SIGKILL: no
        `finally`, no goodbye."""
        self._held.setdefault(node, deque())

    def resume(self, node: str) -> None:
        self._ready.extend(self._held.pop(node, ()))

    def release(self) -> "list[asyncio.Task[Any]]":
        """Let all nodes run again, so that they can end; their tasks."""
        for node in list(self._held):
            self.resume(node)
        return [task for task in self._tasks() if task.node]

    def hold(self, handle: asyncio.Handle) -> bool:
        """Whether this may not run now; it is kept for later if there is a later."""
        node = handle._context.get(NODE, "")  # type: ignore[attr-defined]
        if node in self._held:
            self._held[node].append(handle)
        return node in self._held

    def waiting(self) -> str:
        """Every task that waits, with its node and the line where it does."""
        lines = []
        for task in self._tasks():
            stack = task.get_stack(limit=1)
            place = f"{stack[0].f_code.co_filename}:{stack[0].f_lineno}" if stack else "not started"
            if task.node not in self._held:
                lines.append(f"{task.node or 'world'}: {getattr(task.get_coro(), '__qualname__', '?')} at {place}")
        return "; ".join(lines)

    def _tasks(self) -> "list[_Task[Any]]":
        return sorted((task for task in asyncio.all_tasks(self) if isinstance(task, _Task)), key=hash)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._num_timers += 1
        heapq.heappush(self._scheduled, (when, self._num_timers, timer))
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def _run_once(self) -> None:
        """What asyncio's own does, without files to look at: if nothing is ready, it is the next timer's time."""
        timers, ready = self._scheduled, self._ready
        if self._timer_cancelled_count > max(100, len(timers) // 2):  # most deadlines are, long before they are due
            self._drop_cancelled()
        if not ready and not self._stopping:
            while timers and timers[0][2]._cancelled:  # type: ignore[attr-defined]
                self._pop_timer()
            if not timers:
                raise Deadlock(f"nothing is scheduled at {self._now:.3f} s, and these wait: {self.waiting()}")
            self._now = max(self._now, timers[0][0])
        due = self._now + self._clock_resolution
        while timers and timers[0][0] < due:
            ready.append(self._pop_timer())
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled and not (self._held and self.hold(handle)):  # type: ignore[attr-defined]
                handle._run()  # type: ignore[attr-defined]

    def _pop_timer(self) -> asyncio.TimerHandle:
        timer = heapq.heappop(self._scheduled)[2]
        timer._scheduled = False  # type: ignore[attr-defined]
        self._timer_cancelled_count -= timer._cancelled  # type: ignore[attr-defined]
        return timer

    def _drop_cancelled(self) -> None:
        self._scheduled[:] = [entry for entry in self._scheduled if not entry[2]._cancelled]  # type: ignore[attr-defined]
        heapq.heapify(self._scheduled)
        self._timer_cancelled_count = 0

    def _make_task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "_Task[Any]":
        self._num_tasks += 1
        return _Task(self._num_tasks, work, loop=loop, **options)


class _Task(asyncio.Task[T]):
    def __init__(self, number: int, work: Coroutine[Any, Any, T], **options: Any) -> None:
        self._number = number
        self.node = (options.get("context") or copy_context()).get(NODE, "")
        super().__init__(work, **options)
        self._log_destroy_pending = False  # a killed node's tasks never end

    def __hash__(self) -> int:
        return self._number


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time."""
    with _collecting_seldom(), _one_thread(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums come out the same on every machine, and small tensors do not wait for a second core that others use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """What was loaded before is no garbage of this run: to look through it over and over took a tenth of the time."""
    threshold = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        gc.unfreeze()
