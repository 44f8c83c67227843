"""1797 handwritten digits of 8x8 pixels (Alpaydin and Kaynak, UCI), bundled with scikit-learn: learned in seconds."""

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from p2ptrain.seeds import numpy_random
from p2ptrain.training.tables import bundled
from p2ptrain.training.tasks import Batch, Metrics, Task, device_of, initialising, register

NUM_TEST = 400


@register("digits")
class Digits(Task):
    """Which digit is it?"""

    lr: float = Field(default=0.1, gt=0)
    network: Literal["mlp", "cnn"] = "mlp"
    """`cnn` has batch normalisation, so its running means travel too."""
    hidden: int = Field(default=64, gt=0, le=4096)
    """Width of the hidden layer (mlp), or channels of the second convolution (cnn)."""

    def model(self, seed: int) -> nn.Module:
        with initialising(seed):
            return _mlp(self.hidden) if self.network == "mlp" else _cnn(self.hidden)

    def labels(self) -> np.ndarray:
        return _load()[1].numpy()

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> Batch:
        images, labels, _, _ = _load()
        chosen = torch.from_numpy(rng.choice(examples, self.batch_size))
        return images[chosen], labels[chosen]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(model(images).float(), labels)

    def evaluate(self, model: nn.Module) -> Metrics:
        _, _, images, labels = _load()
        logits = model(images.to(device_of(model))).float().cpu()
        accuracy = (logits.argmax(1) == labels).float().mean()
        return Metrics(functional.cross_entropy(logits, labels).item(), accuracy.item())


def _mlp(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def _cnn(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(channels * 16, 10),
    )


@lru_cache(maxsize=1)
def _load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train images (1397, 1, 8, 8), train labels (1397,), test images (400, 1, 8, 8), test labels (400,).

    The test images are the same in every run, whatever its seed."""
    pixels, labels = bundled("digits.csv.gz")
    order = numpy_random(0, "digits").permutation(len(pixels))
    test, train = order[:NUM_TEST], order[NUM_TEST:]
    standard = (pixels - pixels[train].mean()) / pixels[train].std()
    images = torch.from_numpy(standard.astype(np.float32).reshape(-1, 1, 8, 8))
    targets = torch.from_numpy(labels.astype(np.int64))
    return images[train], targets[train], images[test], targets[test]
