"""Attacks are what a lying node says instead of the truth: `attacks.make("alie")(own, seen, rng, to=3)`.

Each attack is one file in this folder. An attack is pure: it keeps no state between calls, and its randomness is the
generator it is given. It speaks of what is sent, not of how: whoever sends it reads `kind`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from p2ptrain.registry import Component, Registry

Bytes = bytes | bytearray | memoryview
Kind = Literal["content", "data", "protocol"]


@dataclass(frozen=True, eq=False)
class Scene:
    """What an attacker knows beside vectors. All of it may be left out: it then makes do with less."""

    liars: int = 1
    """How many send lies to this recipient, this node included; those that see the same tell the same."""
    rule: Callable[[Tensor, Tensor], Tensor] | None = None
    """How the recipient combines: for attacks that look for the strongest lie."""
    recipient: int | None = None
    """The row of `seen` that is the recipient's own vector; None: as if it were the slot, around the rows in turn."""
    weights: Tensor | None = None
    """(m,) how much each vector of `seen` counts for the recipient, 0 for those that are not its neighbours; None: all
    count as much as a liar does."""
    liars_weight: float | None = None
    """How much all the liars together count for it; None: as much as the same number of others."""
    history: Tensor | None = None
    """(h, d) what this node would have sent in the rounds before, the last one last."""


class Attack(Component):
    """(own (d,), seen (m, d), rng) -> (d,): the lie.

    `own` is what an honest node would send now. `seen` are the honest vectors that the attacker has: all of them, if it
    knows everything; the results of attacks that need some are `own` when there are none. `to` is the slot of the
    recipient, for lies that differ. Results have the dtype and device of `own` and share no memory with it."""

    kind: ClassVar[Kind] = "content"
    """`content`: keeps to the protocol, and sends what the attack returns. `data`: honest but for what it learns from,
    see `targets`. `protocol`: breaks it, as the attack's fields say; what it sends, if anything, is `own`."""
    omniscient: ClassVar[bool] = False
    """Whether it uses `seen`, and is the stronger the more it sees."""
    per_recipient: ClassVar[bool] = False
    """Whether lies depend on `to` or on the recipient's place in the scene; False: one lie a round is enough."""

    @property
    def memory(self) -> int:
        """How many earlier vectors of its own it wants in `Scene.history`."""
        return 0

    def __call__(
        self, own: Tensor, seen: Tensor, rng: np.random.Generator, *, to: int = 0, scene: Scene | None = None
    ) -> Tensor:
        return own.clone()

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """(batch,) labels -> (batch,): what attacks of kind `data` train on instead."""
        return labels

    def delay_s(self, nbytes: int) -> float:
        """How long attacks of kind `protocol` sit on a message of so many bytes."""
        return 0.0

    def swollen(self, payload: Bytes) -> Bytes:
        """What attacks of kind `protocol` send instead of a chunk's payload."""
        return payload


registry: Registry[Attack] = Registry("attack", __name__)
register, make, names, get, parse = registry.register, registry.make, registry.names, registry.get, registry.parse
