"""Waiting that ends, and for what comes again."""

import asyncio
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import Any


def now() -> float:
    """Seconds of the running loop's clock, which does not jump; virtual in simulations."""
    return asyncio.get_running_loop().time()


async def within(timeout_s: float, awaited: Awaitable[object]) -> None:
    """Wait for it, but not longer than that."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await awaited


async def either(*awaited: Coroutine[Any, Any, None]) -> None:
    """Returns when the first of them has; the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in awaited]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Run two coroutines at once; the first failure ends both and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(one)
            group.create_task(other)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


class News:
    """Something that happens time and again; whoever waits for the next time is woken then."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        """It has happened."""
        self._next.set()
        self._next = asyncio.Event()

    async def next(self) -> None:
        """Returns when it happens once more."""
        await self._next.wait()
