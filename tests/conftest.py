"""Async tests run in virtual time, but for the ones that need real sockets and processes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from real_broker import MakeBroker, RealBroker

from p2ptrain.simulation.loop import VirtualLoop

# A busy machine makes no example wrong, and every machine tries the same ones.
hypothesis.settings.register_profile("any machine", deadline=None, derandomize=True)
hypothesis.settings.load_profile("any machine")

REAL = ("network", "node", "docker", "telemetry/test_mqtt.py")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    path = Path(item.path).relative_to(Path(__file__).parent)
    is_real = any(path.is_relative_to(real) for real in REAL)
    return {"real": asyncio.new_event_loop} if is_real else {"virtual": VirtualLoop}


@pytest.fixture
async def make_broker(tmp_path: Path) -> AsyncIterator[MakeBroker]:
    """Brokers that do not outlive the test."""
    made: list[RealBroker] = []

    def make(**options: Any) -> RealBroker:
        made.append(RealBroker(tmp_path, **options))
        return made[-1]

    yield make
    for broker in made:
        await broker.kill()


@pytest.fixture
async def broker(make_broker: MakeBroker) -> RealBroker:
    """It runs, and lets everyone in."""
    running = make_broker()
    await running.start()
    return running
