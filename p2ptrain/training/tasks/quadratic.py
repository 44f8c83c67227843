"""Find the mean of points: the problem that theory is about, and the cheapest there is.

Every node's optimum is the mean of its own points, the swarm's is the mean of all."""

from functools import lru_cache

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from p2ptrain.seeds import numpy_random
from p2ptrain.training.tasks import Batch, Metrics, Task, device_of, initialising, register

NUM_POINTS, NUM_CLUSTERS = 1000, 10


@register("quadratic")
class Quadratic(Task):
    """Half the mean squared distance to a cloud of points, each coordinate in ten clusters of unit width."""

    lr: float = Field(default=0.1, gt=0)
    dim: int = Field(default=100, gt=0, le=10_000_000)

    def model(self, seed: int) -> nn.Module:
        with initialising(seed):
            return _Point(self.dim)

    def labels(self) -> np.ndarray:
        return np.arange(NUM_POINTS) % NUM_CLUSTERS

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> Batch:
        points = _points(min(self.dim, 1000))[torch.from_numpy(rng.choice(examples, self.batch_size))]
        return points, torch.zeros(len(points))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch[0]).mean()

    def evaluate(self, model: nn.Module) -> Metrics:
        """The loss beyond the optimum's: half the squared distance, per coordinate, to the mean of all points."""
        mean = _points(min(self.dim, 1000)).mean(0, keepdim=True)
        return Metrics(model(mean.to(device_of(model))).item(), None)


class _Point(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(dim))

    def forward(self, points: Tensor) -> Tensor:
        """(n, k) points, repeated along the coordinates when k is smaller, to (n,) losses."""
        width = points.shape[1]
        whole = self.position[: len(self.position) // width * width].view(-1, 1, width)
        return 0.5 * (whole - points).square().mean((0, 2))


@lru_cache(maxsize=4)
def _points(width: int) -> Tensor:
    """(1000, width), the same in every run."""
    rng = numpy_random(0, "quadratic", width)
    centres = rng.normal(scale=3.0, size=(NUM_CLUSTERS, width))
    points = centres[np.arange(NUM_POINTS) % NUM_CLUSTERS] + rng.normal(size=(NUM_POINTS, width))
    return torch.from_numpy(points.astype(np.float32))
