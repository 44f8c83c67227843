"""An asyncio loop whose clock jumps to the next timer instead of waiting for it."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Somebody waits, and nothing is scheduled that could wake them."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs as fast as the work in it; sockets and threads do not exist here."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Jump(self))
        # A float clock that has run for a virtual year cannot resolve asyncio's own nanosecond, and would spin.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:
        raise RuntimeError("threads do not exist in virtual time")

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def waiting(self) -> str:
        """Every task that waits, with the line where it does."""
        lines = []
        for task in sorted(asyncio.all_tasks(self), key=lambda task: task.get_name()):
            stack = task.get_stack(limit=1)
            place = f"{stack[0].f_code.co_filename}:{stack[0].f_lineno}" if stack else "not started"
            lines.append(f"{task.get_name()} at {place}")
        return "; ".join(lines)


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
