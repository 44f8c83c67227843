"""Waiting that ends."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress


async def within(timeout_s: float, awaited: Awaitable[object]) -> None:
    """Wait for it, but not longer than that."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await awaited
