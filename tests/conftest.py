"""Async tests run in virtual time, but for the ones that need real sockets and processes."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from p2ptrain.simulation.loop import VirtualLoop

REAL = {"network", "node", "docker"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    folder = Path(item.path).relative_to(Path(__file__).parent).parts[0]
    return {"real": asyncio.new_event_loop} if folder in REAL else {"virtual": VirtualLoop}
