"""Places in the code where a simulated world may interfere: wait here, break the connection, crash."""

from collections.abc import Awaitable, Callable

hook: Callable[[str], Awaitable[None]] | None = None
"""Set by the simulator for as long as a world runs."""


async def point(place: str) -> None:
    """Here it would hurt: between two steps that belong together."""
    if hook is not None:
        await hook(place)
