"""What a node shows to everybody in a round: a vector, encoded once, and signed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from p2ptrain.codecs import Codec, Packet
from p2ptrain.exchange.statements import Author, Statement, digest_of
from p2ptrain.exchange.talk import chunk_size_of, chunks
from p2ptrain.ports import PeerId
from p2ptrain.seeds import derive


@dataclass(frozen=True, eq=False)
class Offer:
    """Of one node, in one round."""

    vector: Tensor
    """(d,) float32 on the CPU: what an honest node has."""
    step: int
    norm: float
    packets: tuple[Packet, ...]
    """What is sent."""
    statement: Statement
    round: int = 0
    """Of methods that go in rounds."""
    accounts: Mapping[PeerId, bytes] = field(default_factory=dict)
    """What to say with it to each peer, for methods that keep accounts: 32 bytes."""
    told: set[PeerId] = field(default_factory=set)
    """Who has it."""

    @property
    def number(self) -> int:
        return self.statement.number


def make(
    vector: Tensor,
    step: int,
    codec: Codec,
    author: Author,
    round: int = 0,
    accounts: Mapping[PeerId, bytes] | None = None,
) -> Offer:
    """Show this vector, (d,), as it is after so many steps."""
    packets, statement = _encode(vector, codec, author, author.next_number())
    return Offer(vector, step, float(torch.linalg.vector_norm(vector)), packets, statement, round, accounts or {})


def decoded(offer: Offer, codec: Codec) -> Tensor:
    """(d,) float32: as it reaches the others."""
    return torch.cat([codec.decode(packet) for packet in offer.packets])


def twisted(offer: Offer, said: Tensor, codec: Codec, author: Author) -> Offer:
    """A liar's: it says this instead, (d,), under the same number."""
    packets, statement = _encode(said, codec, author, offer.number)
    return replace(offer, packets=packets, statement=statement)


def _encode(vector: Tensor, codec: Codec, author: Author, number: int) -> tuple[tuple[Packet, ...], Statement]:
    chunk_size = chunk_size_of(codec)
    packets = tuple(
        codec.encode(vector[where], seed=derive(number, index))
        for index, where in enumerate(chunks(len(vector), chunk_size))
    )
    digest = digest_of(codec.model_dump_json(), chunk_size, (packet.payload for packet in packets))
    return packets, author.state(number, digest)
