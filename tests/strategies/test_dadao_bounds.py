"""How nodes agree on L and mu."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from p2ptrain.errors import PeerError
from p2ptrain.ports import PeerId
from p2ptrain.strategies.dadao.bounds import Agreement, Bounds
from p2ptrain.wire import dadao_pb2


class Wire:
    """Of several nodes: a call is answered at once."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[PeerId, bytes], Awaitable[bytes]]] = {}

    def of(self, name: str) -> Any:
        wire = self

        class Transport:
            def serve(self, method: str, handler: Callable[[PeerId, bytes], Awaitable[bytes]]) -> None:
                wire.handlers[name] = handler

            async def call(self, peer: PeerId, method: str, request: bytes, timeout_s: float) -> bytes:
                return await wire.handlers[peer](PeerId(name), request)

        return Transport()


def test_the_steepest_and_the_flattest_win_on_all_nodes() -> None:
    wire, news = Wire(), list[int]()
    nodes = [Agreement(wire.of(f"n{index}"), lambda index=index: news.append(index)) for index in range(4)]
    for index, node in enumerate(nodes):
        node.begin(Bounds(1.0 + index, 0.5 - 0.1 * index))

    async def compare() -> None:
        for _ in range(3):
            for index in range(3):
                await nodes[index].compare(PeerId(f"n{index + 1}"))

    asyncio.run(compare())
    assert {node.bounds for node in nodes} == {Bounds(4.0, 0.5 - 0.1 * 3)}
    assert set(news) == {0, 1, 2}


@pytest.mark.parametrize(
    "told",
    [(math.nan, 0.1), (math.inf, 0.1), (1.0, 0.0), (1.0, -1.0), (0.1, 1.0), (1e9, 0.1), (1.0, 1e-12)],
)
def test_what_no_loss_can_have_is_refused(told: tuple[float, float]) -> None:
    node = Agreement(Wire().of("n0"), lambda: None)
    node.begin(Bounds(1.0, 0.1))
    request = dadao_pb2.Bounds(smoothness=told[0], convexity=told[1]).SerializeToString()
    with pytest.raises(PeerError, match="malformed"):
        asyncio.run(node._answer(PeerId("n1"), request))
    assert node.bounds == Bounds(1.0, 0.1)


def test_garbage_and_long_messages_are_refused() -> None:
    node = Agreement(Wire().of("n0"), lambda: None)
    with pytest.raises(PeerError, match="not-ready"):
        asyncio.run(node._answer(PeerId("n1"), b""))
    node.begin(Bounds(1.0, 0.1))
    for request, reason in ((b"\xff\xff", "malformed"), (bytes(100), "oversized")):
        with pytest.raises(PeerError, match=reason):
            asyncio.run(node._answer(PeerId("n1"), request))
