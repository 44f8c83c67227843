"""What a peer may say on a one-byte stream: each lie is refused, counted, and named after who told it; the swarm ends
with the same bits all the same."""

import asyncio
import hashlib
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from test_onebyte import digests, topology

from p2ptrain.errors import PeerError
from p2ptrain.ports import Contact, Stream, peer_id_of
from p2ptrain.simulation.loop import run
from p2ptrain.simulation.world import World
from p2ptrain.strategies.spsa.dissemination.dialling import FLOOD
from p2ptrain.strategies.spsa.ledger.batch import Batch, Run, encode
from p2ptrain.strategies.spsa.ledger.roster import slot_of
from p2ptrain.telemetry.events import Rejected, Stamped
from p2ptrain.wire.onebyte_pb2 import Said


class Stranger:
    """Speaks to every node of a world, with a key of its own and whatever bytes it likes."""

    def __init__(self, world: World, name: str = "stranger") -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        self.public_key = self._key.public_key().public_bytes_raw()
        self.me, self.slot = peer_id_of(self.public_key), slot_of(self.public_key)
        self._transport = world.links.transport(self.me, f"{name}:1")
        self._nodes = [node.peer for node in world.nodes.values()]
        for node in world.nodes.values():
            self._transport.learn(node.peer, Contact((node.file.node.listen,), b""))
        daemon = world.nodes["node-0"].daemon
        assert daemon is not None
        self.identity = daemon.node.service.replica.identity

    def signed(self, *runs: Run, slot: int | None = None) -> bytes:
        return encode(Batch(self.slot if slot is None else slot, runs).sign(self.identity, self._key.sign))

    def hello(self, identity: bytes | None = None) -> Said:
        return Said(hello=Said.Hello(identity=identity or self.identity, key=self.public_key))

    def records(self, *batches: bytes) -> Said:
        return Said(records=Said.Records(keys=[self.public_key], batches=batches))

    async def say(self, *messages: Said | bytes) -> None:
        """To all nodes; returns when they have hung up, or have had seconds for it."""

        async def tell(stream: Stream) -> None:
            for message in messages:
                await stream.send(message if isinstance(message, bytes) else message.SerializeToString())
            while True:
                await stream.receive()

        for peer in self._nodes:
            with suppress(PeerError, TimeoutError):
                async with asyncio.timeout(2.0), self._transport.stream(peer, FLOOD, 60.0) as stream:
                    await tell(stream)


BYTE = Run(0, 0, b"\x05", -3)


def messages(kind: str, stranger: Stranger) -> list[Said | bytes]:
    hello = stranger.hello()
    match kind:
        case "wrong-model":
            return [stranger.hello(b"o" * 32)]
        case "unknown-slot":
            return [hello, stranger.records(stranger.signed(BYTE, slot=stranger.slot ^ 1))]
        case "bad-signature":
            return [hello, stranger.records(stranger.signed(BYTE)[:-1] + b"\0")]
        case "closed":
            return [hello, stranger.records(stranger.signed(BYTE))]
        case "ahead":
            return [hello, stranger.records(stranger.signed(Run(1 << 20, 0, b"\x05", -3)))]
        case "flooding":
            return [hello, stranger.records(stranger.signed(Run(200, 0, b"\x05" * 17, -3)))]
        case "equivocation":
            lies = [stranger.signed(Run(200, 0, byte, -3)) for byte in (b"\x05", b"\x70")]
            return [hello, stranger.records(*lies)]
        case "oversized":
            return [hello, stranger.records(bytes(1 << 18))]
        case "malformed":
            return [hello, b"\xff\xff\xff"]
    raise AssertionError(kind)


KINDS = (
    "wrong-model", "unknown-slot", "bad-signature", "closed", "ahead", "flooding", "equivocation", "oversized",
    "malformed",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_lie_is_refused_counted_and_named(kind: str) -> None:
    log: list[Stamped] = []
    file = topology(count=3, steps=120, strategy={"audit_every": 8, "horizon": 16})

    async def main() -> str:
        world = World(file, log.append)
        running = asyncio.ensure_future(world.run(3600.0))
        await asyncio.sleep(15.0)
        stranger = Stranger(world)
        await stranger.say(*messages(kind, stranger))
        await running
        return stranger.me

    stranger = run(main())
    found = {(stamped.node, stamped.event.reason) for stamped in log if isinstance(stamped.event, Rejected)}
    assert {(f"node-{index}", kind) for index in range(3)} <= found
    assert {reason for _, reason in found} == {kind}
    named = {stamped.event.peer for stamped in log if isinstance(stamped.event, Rejected)}
    assert named == {stranger}
    assert len(digests(log)) == 3
    assert len(set(digests(log).values())) == 1
