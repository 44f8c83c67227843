"""Error feedback for updates (EF14, Seide et al. 2014): what a codec loses of one update is added to the next.

    p = residual + update;  send C(p);  residual = p - C(p)

so that everything is sent in the end: sum of updates = sum of what was decoded + residual. Receivers keep no state,
which is what makes this form right for a swarm that peers join and leave. For replicas, which are averaged and not
summed, the codecs' own `memory` does this service.
"""

import torch
from torch import Tensor

from p2ptrain.codecs import Codec, Packet


class ErrorFeedback:
    """Encodes one stream of updates of one length; one object for each stream and chunk."""

    def __init__(self, codec: Codec, size: int) -> None:
        self.codec = codec
        self.residual = torch.zeros(size)
        """(size,) float32: what is still to be sent. Belongs in a checkpoint."""

    def encode(self, update: Tensor, *, seed: int = 0) -> Packet:
        """Encode `update` (size,) and what earlier ones left over.

        Raises `ValueError` if the update is not finite or of another size; the residual is then as before."""
        if update.shape != self.residual.shape:
            raise ValueError(f"an update of shape {tuple(update.shape)} for a residual of {tuple(self.residual.shape)}")
        full = self.residual + update.detach().to(self.residual)
        packet = self.codec.encode(full, seed=seed)
        # Not in place: the payload may be a view of `full`.
        residual = full.clone()
        self.codec.add(packet, residual, -1.0)
        self.residual = residual
        return packet

    def reset(self) -> None:
        """Forget what was not sent, as after a round in which nothing was applied."""
        self.residual = torch.zeros_like(self.residual)
