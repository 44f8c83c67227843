"""One side of a pair of real exchangers, for benchmarks: identity, TLS, gRPC, replica, no DHT and no heartbeats."""

import asyncio
import random
from pathlib import Path
from typing import Any

import torch
from torch import nn

from p2ptrain import aggregators, codecs
from p2ptrain.exchange.pairwise import Exchanger
from p2ptrain.network.identity import Identity
from p2ptrain.network.tls import Credentials
from p2ptrain.network.transport import Cleartext, GrpcTransport
from p2ptrain.ports import Contact, PeerId
from p2ptrain.telemetry.events import Event, Exchanged
from p2ptrain.training.replica import Replica


class Vector(nn.Module):
    """A model of `size` parameters that computes nothing."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(size))


class Side:
    """A node reduced to what a swap needs."""

    def __init__(self, home: Path, size: int, codec: str, tls: bool, module: nn.Module | None = None) -> None:
        identity = Identity.load_or_create(home)
        self.me = identity.peer
        self.credentials = Credentials(identity, "benchmark-swarm", "benchmark") if tls else None
        self.transport = GrpcTransport(
            self.me, self.credentials or Cleartext(), lambda caller, error: print(caller, error)
        )
        self.replica = Replica(module or Vector(size))
        self.swapped = asyncio.Event()
        self.other = PeerId("")
        self.num_swaps = 0
        self.num_failed = 0
        chosen = codecs.make(codec)
        chosen.warm()
        self.exchanger = Exchanger(
            transport=self.transport,
            shared=self.replica,
            run="benchmark",
            codec=chosen,
            aggregator=aggregators.make("mean"),
            emit=self._count,
            rng=random.Random(self.me),
            step=lambda: 0,
        )

    async def start(self) -> tuple[str, str, bytes]:
        """Listen; (peer id, address, certificate) for the other side."""
        address = self.transport.bind("127.0.0.1:0")
        await self.transport.start()
        return self.me, address, self.credentials.certificate_der if self.credentials else b""

    def meet(self, other: tuple[str, str, bytes]) -> None:
        self.other = PeerId(other[0])
        self.transport.learn(self.other, Contact((other[1],), other[2]))

    async def close(self) -> None:
        await self.transport.close(0.1)

    def _count(self, event: Event) -> Any:
        if isinstance(event, Exchanged):
            self.num_swaps += 1
            self.swapped.set()
        else:
            self.num_failed += 1
