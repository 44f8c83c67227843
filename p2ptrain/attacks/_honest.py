"""What an attacker makes of the honest vectors that it sees."""

import torch
from torch import Tensor

from p2ptrain.attacks import Scene


def mean_and_deviation(seen: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """(m, d), m > 0 -> mean and standard deviation of each coordinate (with m - 1; of one vector 0), each (d,)."""
    seen = seen.to(like)
    deviation = seen.std(0) if len(seen) > 1 else torch.zeros_like(seen[0])
    return seen.mean(0), deviation


def recipient_row(scene: Scene, to: int, num_seen: int) -> int:
    """Which of the vectors seen is the recipient's own."""
    return to % num_seen if scene.recipient is None else scene.recipient


def others(seen: Tensor, row: int) -> Tensor:
    """(m - 1, d): all but one."""
    return torch.cat([seen[:row], seen[row + 1 :]])
