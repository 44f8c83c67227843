"""An asyncio loop whose clock jumps to the next timer instead of waiting for it, and on which nodes can be stopped.

The same program takes the same steps in the same order, in every process: tasks hash by their number, so that sets of
them iterate alike, and timers due together fire in the order in which they were set.
"""

import asyncio
import heapq
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

NODE: ContextVar[str] = ContextVar("NODE", default="")
"""On whose behalf code runs; tasks inherit it. Empty: the world's."""


class Deadlock(RuntimeError):
    """Somebody waits, and nothing is scheduled that could wake them."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs as fast as the work in it; sockets and threads do not exist here."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Jump(self))
        # A float clock that has run for a virtual year cannot resolve asyncio's own nanosecond, and would spin.
        self._clock_resolution = 1e-6
        self._num_tasks = self._num_timers = 0
        self._held: dict[str, deque[asyncio.Handle]] = {}
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:
        raise RuntimeError("threads do not exist in virtual time")

    def advance(self, seconds: float) -> None:
        self._now += seconds

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
        timer = _Timer(when, callback, args, self, context)
        self._num_timers = timer.number = self._num_timers + 1
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def _call_soon(self, callback: Callable[..., object], args: Any, context: Context | None) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def _make_task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "_Task[Any]":
        self._num_tasks += 1
        return _Task(self._num_tasks, work, loop=loop, **options)


class _Handle(asyncio.Handle):
    __slots__ = ()
    _loop: VirtualLoop

    def _run(self) -> None:
        if not self._loop._held or not self._loop.hold(self):
            super()._run()  # type: ignore[misc]


class _Timer(asyncio.TimerHandle):
    __slots__ = ("number",)
    _loop: VirtualLoop
    _when: float
    number: int

    def __lt__(self, other: "_Timer") -> bool:  # type: ignore[override]
        return (self._when, self.number) < (other._when, other.number)

    def _run(self) -> None:
        if not self._loop._held or not self._loop.hold(self):
            super()._run()  # type: ignore[misc]


class _Task(asyncio.Task[T]):
    def __init__(self, number: int, work: Coroutine[Any, Any, T], **options: Any) -> None:
        self._number = number
        self.node = (options.get("context") or copy_context()).get(NODE, "")
        super().__init__(work, **options)
        self._log_destroy_pending = False  # a killed node's tasks never end

    def __hash__(self) -> int:
        return self._number


class _Jump(selectors.SelectSelector):
    """A selector that sees no files, and for which waiting is moving the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock(f"nothing is scheduled at {self._loop.time():.3f} s, and these wait: {self._loop.waiting()}")
        if timeout > 0:
            self._loop.advance(timeout)
        return []


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
