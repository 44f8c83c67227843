"""The Flag Aggregator in its paper's setting (Almasi et al. 2023, arXiv:2302.05865, section 4), beside other rules.

    python -m benchmarks.flag [--json FILE] [--steps N] [--seeds N] [--lr RATE] [--rules NAME...]

15 workers send the gradient of their own batch, each image shifted by up to a pixel and with noise; 1 to 3 of them send
uniform random numbers in [0, 1) instead. One model takes SGD steps (momentum 0.9, weight decay 5e-4, cosine) along what
the rule makes of the 15: a small convolutional network with batch normalisation on `digits`, where the paper has a
ResNet on CIFAR-10. Printed is the accuracy on held-out data at the end in percent: median and lowest of the seeds, all
rules with the same seeds, batches and lies.
"""

import statistics
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.common import arguments, table, write_json
from p2ptrain import aggregators, attacks
from p2ptrain.aggregators import Aggregator
from p2ptrain.seeds import numpy_random
from p2ptrain.training.tasks.digits import Digits

WORKERS, BATCH, MOMENTUM = 15, 16, 0.9
NOISE, SHIFT = 0.3, 1
RULES: dict[str, dict[str, Any]] = {
    "mean": {"name": "mean"},
    "flag": {"name": "flag"},
    "flag, r = 8": {"name": "flag", "r": 8},
    "flag, r = 8, the paper's": {"name": "flag", "r": 8, "discount": False},
    "flag, no discount": {"name": "flag", "discount": False},
    "flag, r = 1": {"name": "flag", "r": 1},
    "median": {"name": "median"},
    "trimmed-mean": {"name": "trimmed-mean"},
    "multi-krum": {"name": "multi-krum"},
}


class Training:
    """One model, one rule, one seed."""

    def __init__(self, rule: Aggregator, liars: int, steps: int, lr: float, seed: int) -> None:
        self.rule, self.liars, self.steps, self.lr, self.seed = rule, liars, steps, lr, seed
        self.task = Digits(batch_size=BATCH, network="cnn", hidden=16)
        self.module = self.task.model(seed)
        self.examples = np.arange(len(self.task.labels()))  # workers draw from the same data
        self.lie = attacks.make("noise", distribution="uniform")

    def run(self) -> float:
        """Accuracy at the end, %."""
        parameters = list(self.module.parameters())
        optimizer = torch.optim.SGD(parameters, lr=self.lr, momentum=MOMENTUM, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for step in range(self.steps):
            told = torch.stack([self._told(worker, step) for worker in range(WORKERS)])
            nn.utils.vector_to_parameters(self.rule(told[0], told[1:]), gradients := [p.clone() for p in parameters])
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.detach()
            optimizer.step()
            schedule.step()
        return 100 * (self.task.evaluate(self.module).accuracy or 0.0)

    def _told(self, worker: int, step: int) -> Tensor:
        """(d,): a gradient, or from the last ones a lie."""
        rng = numpy_random(self.seed, "worker", worker, step)
        own = self._gradient(worker, step)
        return own if worker < WORKERS - self.liars else self.lie(own, own[None], rng)

    def _gradient(self, worker: int, step: int) -> Tensor:
        rng = numpy_random(self.seed, "batch", worker, step)
        images, labels = self.task.batch(self.examples, rng)
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
        loss = self.task.loss(self.module, (augmented(images, generator), labels))
        return nn.utils.parameters_to_vector(torch.autograd.grad(loss, list(self.module.parameters())))


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 1, 8, 8), each shifted by up to `SHIFT` pixels, with Gaussian noise."""
    padded = functional.pad(images, [SHIFT] * 4, mode="replicate")
    corners = torch.randint(0, 2 * SHIFT + 1, (len(images), 2), generator=generator).tolist()
    shifted = torch.stack([image[:, y : y + 8, x : x + 8] for image, (y, x) in zip(padded, corners, strict=True)])
    return shifted + NOISE * torch.randn(images.shape, generator=generator)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), help="labels of rows (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}
    for label in options.rules:
        settings = RULES[label]
        for liars in range(4):
            takes_f = "f" in aggregators.get(settings["name"]).model_fields
            rule = aggregators.parse({**settings, "f": liars} if takes_f else settings)
            runs = [Training(rule, liars, options.steps, options.lr, seed).run() for seed in range(options.seeds)]
            found.setdefault(label, {})[str(liars)] = runs
            print(f"{label}, {liars} liars: {', '.join(f'{run:.1f}' for run in runs)}", flush=True)
    table(
        f"{WORKERS} workers, accuracy %, median (lowest) of {options.seeds} seeds",
        ("rule", *(f"{liars} liars" for liars in range(4))),
        [
            (label, *(f"{statistics.median(runs):.1f} ({min(runs):.1f})" for runs in row.values()))
            for label, row in found.items()
        ],
    )
    write_json(options.json, {"steps": options.steps, "lr": options.lr, "accuracy": found})


if __name__ == "__main__":
    main()
