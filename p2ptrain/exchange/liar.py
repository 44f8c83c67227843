"""A node that lies: it keeps to the protocol, and says what its attack tells it to instead of the truth."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from p2ptrain.attacks import Attack, Scene
from p2ptrain.exchange.talk import MAX_NORM_RATIO
from p2ptrain.ports import PeerId

BELIEVED = 0.3 * MAX_NORM_RATIO
"""Less than others take for a replica of the same model: theirs may be shorter."""

Spy = Callable[[PeerId], "Sight | None"]
"""What the liar sees of the swarm, for a recipient; None: nothing."""


@dataclass(frozen=True, eq=False)
class Sight:
    """The honest vectors that a liar has."""

    vectors: Tensor
    """(m, d); all of them, in the order of their slots, where it knows everything; else those it was sent."""
    to: int = 0
    """The recipient's slot."""
    recipient: int | None = None
    """The recipient's row, if it is there."""
    weights: Tensor | None = None
    """See `attacks.Scene`."""
    liars: int = 1


def see(honest: Mapping[PeerId, Tensor], peer: PeerId, slot: int, liars: int) -> Sight | None:
    """These vectors as seen by who lies to `peer` at `slot`; None when there are none."""
    if not honest:
        return None
    peers = list(honest)
    recipient = peers.index(peer) if peer in honest else None
    return Sight(torch.stack([honest[other] for other in peers]), slot, recipient, None, liars)


@dataclass
class Liar:
    """`say` it instead of the own vector."""

    attack: Attack
    rule: Callable[[Tensor, Tensor], Tensor]
    """How the others combine what they receive."""
    rng: np.random.Generator
    spy: Spy
    _history: deque[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self._history = deque(maxlen=self.attack.memory)

    def remember(self, own: Tensor) -> None:
        """A round begins, in which an honest node would say `own`."""
        if self.attack.memory:
            self._history.append(own.clone())

    def say(self, own: Tensor, peer: PeerId) -> Tensor:
        """(d,) what to send to `peer`, by whom an honest node's `own` was to be heard. Finite, and no farther from
        it than `BELIEVED` times its length: what is not would be refused unheard, and held against this node."""
        if self.attack.kind != "content":
            return own
        sight = self.spy(peer) or Sight(own.new_empty(0, len(own)))
        scene = Scene(
            liars=sight.liars,
            rule=self.rule,
            recipient=sight.recipient,
            weights=sight.weights,
            history=torch.stack(list(self._history)) if self._history else None,
        )
        lie = self.attack(own, sight.vectors.to(own), self.rng, to=sight.to, scene=scene)
        return _believed(lie.nan_to_num_(nan=0.0, posinf=1e15, neginf=-1e15), own)


def _believed(lie: Tensor, own: Tensor) -> Tensor:
    distance, limit = torch.dist(lie, own), BELIEVED * torch.linalg.vector_norm(own)
    return lie if distance <= limit else own + (lie - own) * (limit / distance)
