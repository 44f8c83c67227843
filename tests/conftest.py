"""Async tests run in virtual time, but for the ones that need real sockets and processes."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from p2ptrain.simulation.loop import VirtualLoop

REAL = ("network", "node", "docker", "telemetry/test_mqtt.py")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    path = Path(item.path).relative_to(Path(__file__).parent)
    is_real = any(path.is_relative_to(real) for real in REAL)
    return {"real": asyncio.new_event_loop} if is_real else {"virtual": VirtualLoop}
