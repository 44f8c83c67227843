"""Where a simulated world may look in and interfere. Elsewhere nothing happens here."""

from collections.abc import Awaitable, Callable
from typing import Any

interfere: Callable[[str], Awaitable[None]] | None = None
observe: Callable[..., None] | None = None
"""Both are set by the simulator for as long as a world runs."""


async def point(place: str) -> None:
    """Between two steps that belong together: a good place to wait, to break a connection, to crash."""
    if interfere is not None:
        await interfere(place)


def tell(what: str, *facts: Any) -> None:
    """Something that no event says and an invariant wants to know."""
    if observe is not None:
        observe(what, *facts)
