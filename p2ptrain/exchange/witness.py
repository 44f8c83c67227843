"""Who told different peers different things: statements are compared, and proofs of lies passed on.

Now and then a node asks another one for what contradicts the statements it has heard. What it hears from anybody counts
only if the accused has signed it, so nobody can be slandered.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from p2ptrain.bounded import keep
from p2ptrain.errors import PeerError
from p2ptrain.exchange.reputation import PROVEN, Reputation
from p2ptrain.exchange.statements import Statement, checked
from p2ptrain.messages import parse
from p2ptrain.ports import Bytes, PeerId, Transport
from p2ptrain.wire import exchange_pb2 as pb

COMPARE = "/p2ptrain.v1.Exchange/Compare"
EVERY_S, TIMEOUT_S = 1.0, 10.0
MAX_PEERS, MAX_NUMBERS = 256, 8
"""Of so many peers the last so many statements are kept."""
MAX_PROOFS = 64
MAX_BYTES = 1 << 18


@dataclass(frozen=True)
class Proof:
    """Two statements that contradict each other."""

    one: Statement
    other: Statement


@dataclass
class Witness:
    """One node's memory of what others have signed."""

    run: str
    me: PeerId
    transport: Transport
    reputation: Reputation
    rng: random.Random
    _heard: dict[PeerId, dict[int, Statement]] = field(default_factory=dict)
    _proofs: dict[PeerId, Proof] = field(default_factory=dict)
    _has_heard: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.transport.serve(COMPARE, self._answer)

    def hear(self, statement: Statement) -> None:
        """A checked one."""
        self._has_heard.set()
        peer = statement.peer
        heard = keep(self._heard, peer, self._heard.get(peer, {}), MAX_PEERS)
        before = heard.setdefault(statement.number, statement)
        if len(heard) > MAX_NUMBERS:
            del heard[min(heard)]
        if before.contradicts(statement):
            self._convict(Proof(before, statement))

    def proof(self, peer: PeerId) -> Proof | None:
        """The latest against this peer."""
        return self._proofs.get(peer)

    async def compare(self, peer: PeerId) -> None:
        """Learn what `peer` has heard that contradicts what this node has, and whose lies it can prove. Raises
        `PeerError`."""
        reply = await self.transport.call(peer, COMPARE, self._all_heard().SerializeToString(), TIMEOUT_S)
        evidence = parse(pb.Evidence(), reply, MAX_BYTES)
        if len(evidence.statements) > MAX_PEERS * MAX_NUMBERS or len(evidence.proofs) > MAX_PROOFS:
            raise PeerError("oversized", "too much evidence")
        for said in evidence.statements:
            self.hear(checked(said, self.run))
        for said in evidence.proofs:
            proof = Proof(checked(said.one, self.run), checked(said.other, self.run))
            if not proof.one.contradicts(proof.other):
                raise PeerError("malformed", "a proof that proves nothing")
            self._convict(proof)

    async def run_for_ever(self, peers: Callable[[], list[PeerId]]) -> None:
        """Compare with one of these after another, until cancelled."""
        await self._has_heard.wait()  # where nobody shows anything there is nothing to compare
        while True:
            await asyncio.sleep(EVERY_S * self.rng.uniform(0.5, 1.5))
            if others := peers():
                peer = self.rng.choice(others)
                try:
                    await self.compare(peer)
                except PeerError as error:
                    if error.reason in ("malformed", "oversized", "bad-signature"):
                        self.reputation.blame(peer, error.reason)

    async def _answer(self, peer: PeerId, request: Bytes) -> bytes:
        asked = parse(pb.Heard(), request, MAX_BYTES)
        known = {PeerId(each.peer.hex()): each.number for each in asked.proven}
        evidence = pb.Evidence(
            statements=[each.encoded() for each in self._contradictions(asked.digests)],
            proofs=[
                pb.Proof(one=proof.one.encoded(), other=proof.other.encoded())
                for liar, proof in self._proofs.items()
                if known.get(liar, 0) < proof.one.number
            ],
        )
        return evidence.SerializeToString()

    def _all_heard(self) -> pb.Heard:
        return pb.Heard(
            digests=[
                pb.Heard.Digest(peer=bytes.fromhex(peer), number=number, digest=statement.digest)
                for peer, heard in self._heard.items()
                for number, statement in heard.items()
            ],
            proven=[
                pb.Heard.Proven(peer=bytes.fromhex(peer), number=proof.one.number)
                for peer, proof in self._proofs.items()
            ],
        )

    def _contradictions(self, digests: Iterable[pb.Heard.Digest]) -> list[Statement]:
        """What this node has heard otherwise. At most one statement for each that it has kept."""
        found = {
            (peer, digest.number): statement
            for digest in digests
            if (statement := self._heard.get(peer := PeerId(digest.peer.hex()), {}).get(digest.number))
            and statement.digest != digest.digest
        }
        return list(found.values())

    def _convict(self, proof: Proof) -> None:
        liar, before = proof.one.peer, self._proofs.get(proof.one.peer)
        if liar == self.me or (before is not None and before.one.number >= proof.one.number):
            return
        self._proofs[liar] = proof
        if len(self._proofs) > MAX_PROOFS:
            del self._proofs[next(iter(self._proofs))]
        self.reputation.blame(liar, "equivocation", PROVEN)
