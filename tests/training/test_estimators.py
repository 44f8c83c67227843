"""Medians of gradients, alone and in training."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from p2ptrain import aggregators
from p2ptrain.errors import ConfigError
from p2ptrain.training.estimators import Estimator, clip, geometric_median, huber, proximal
from p2ptrain.training.replica import Replica
from p2ptrain.training.tasks import Batch
from p2ptrain.training.tasks.digits import Digits
from p2ptrain.training.trainer import DivergedError, Recipe, Trainer


def gradients(num: int = 9, size: int = 30, seed: int = 0) -> Tensor:
    return torch.randn(num, size, generator=torch.Generator().manual_seed(seed)) + 1


def proximal_objective(x: Tensor, g: Tensor, m: Tensor, tau: float, loss: str, threshold: float) -> Tensor:
    norm = torch.linalg.vector_norm(x - g)
    losses = {
        "clip": norm,
        "clip-components": (x - g).abs().sum(),
        "huber": torch.where(norm <= threshold, norm**2 / 2, threshold * norm - threshold**2 / 2),
    }
    return losses[loss] + (x - m).square().sum() / (2 * tau)


@pytest.mark.parametrize("name", ["clip", "clip-components", "huber"])
@pytest.mark.parametrize("tau", [0.3, 2.0, 50.0])
def test_each_step_is_the_proximal_point_of_its_loss(name: Any, tau: float) -> None:
    m, g = gradients(2, 12)[0].double(), gradients(2, 12)[1].double()
    x = Estimator(name=name, tau=tau, huber=1.5)(g[None], m)
    best = proximal_objective(x, g, m, tau, name, 1.5)
    generator = torch.Generator().manual_seed(1)
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(50):
            near = x + scale * torch.randn(12, generator=generator, dtype=torch.float64)
            assert proximal_objective(near, g, m, tau, name, 1.5) >= best - 1e-12


def test_without_memory_one_microbatch_is_gradient_clipping() -> None:
    gradient = gradients(1)
    estimator = Estimator(name="clip", tau=0.5, memory=False)
    torch.testing.assert_close(estimator(gradient, 100 + gradient[0]), clip(gradient[0], 0.5))
    assert torch.linalg.vector_norm(estimator(gradient)).item() == pytest.approx(0.5)


def test_they_find_their_medians() -> None:
    rows = gradients(9, 6)
    many = rows[torch.randint(0, 9, (6000,), generator=torch.Generator().manual_seed(0))]
    start = torch.zeros(6)
    exact = aggregators.make("geometric-median", iterations=1000)(rows[0], rows[1:])
    assert torch.dist(proximal(lambda z: clip(z, 0.02), many, start), exact) < 0.2
    by_component = proximal(lambda z: z.clamp(-0.01, 0.01), many, start)
    assert (by_component - rows.median(0).values).abs().max() < 0.15
    mean = proximal(lambda z: huber(z, 0.01, 1e6), many, start)
    assert torch.dist(mean, rows.mean(0)) < 0.25


@pytest.mark.parametrize("num", [1, 2, 5, 12])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_geometric_median_of_a_batch(num: int, scale: float) -> None:
    rows = scale * gradients(num, 40)
    exact = aggregators.make("geometric-median", iterations=1000)(rows[0], rows[1:])
    spread = torch.linalg.vector_norm(rows - exact, dim=1).mean()
    found = geometric_median(rows)
    if num == 2:  # all points between two are medians
        exact = rows[0] + (rows[1] - rows[0]) * (
            (found - rows[0]) @ (rows[1] - rows[0]) / (rows[1] - rows[0]).square().sum()
        )
    assert torch.dist(found, exact) <= 0.02 * spread + 1e-6 * scale


def test_an_outlier_moves_the_mean_and_not_the_medians() -> None:
    rows = gradients(9, 40)
    wild = rows.clone()
    wild[4] = 1e8
    for name in ("clip", "clip-components", "huber", "geometric-median"):
        estimator = Estimator(name=name, tau=0.5)
        moved = torch.dist(estimator(wild, rows.mean(0)), estimator(rows, rows.mean(0)))
        assert moved <= (0.5 * 40**0.5 if name == "clip-components" else 2.0), name
    assert torch.dist(wild.mean(0), rows.mean(0)) > 1e7


def test_all_the_same() -> None:
    rows = gradients(1).repeat(4, 1)
    assert torch.equal(geometric_median(rows), rows[0])


class Mislabelled(Digits):
    """Digits in which now and then an example's pixels are a thousand times too bright."""

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> Batch:
        images, labels = super().batch(examples, rng)
        images = images.clone()
        if rng.random() < 0.3:
            images[int(rng.integers(len(images)))] *= 1000
        return images, labels


def trainer(task: Digits, **recipe: Any) -> Trainer:
    return Trainer(task, Replica(task.model(0)), np.arange(1000), Recipe(**recipe), seed=0, slot=0)


def accuracy(trainer: Trainer, steps: int) -> float:
    for _ in range(steps):
        trainer.step()
    return trainer.evaluate().accuracy or 0.0


def test_medians_train_where_outliers_are_in_the_data() -> None:
    mean = accuracy(trainer(Mislabelled(lr=0.1)), 150)
    median = accuracy(trainer(Mislabelled(lr=0.1), estimator={"name": "geometric-median", "microbatches": 8}), 150)
    clipped = accuracy(trainer(Mislabelled(lr=0.1), estimator={"name": "clip", "tau": 0.1}), 150)
    assert median > 0.85
    assert clipped > 0.85
    assert mean < min(median, clipped) - 0.05


@pytest.mark.parametrize("name", ["clip", "clip-components", "huber", "geometric-median"])
def test_each_trains_a_clean_task(name: str) -> None:
    tau = 0.003 if name == "clip-components" else 0.3
    assert accuracy(trainer(Digits(lr=0.1), estimator={"name": name, "tau": tau}), 150) > 0.85


def test_a_huge_tau_and_one_microbatch_is_the_plain_gradient() -> None:
    plain, same = trainer(Digits()), trainer(Digits(), estimator={"name": "clip", "tau": 1e9, "microbatches": 1})
    for _ in range(5):
        plain.step()
        same.step()
    torch.testing.assert_close(same.replica.flat, plain.replica.flat)


def test_batch_norm_buffers_and_frozen_parameters_are_no_obstacle() -> None:
    task = Digits(network="cnn", hidden=4)
    found = trainer(task, estimator={"name": "clip", "tau": 0.5})
    first = next(found.module.parameters())
    first.requires_grad_(False)
    before = first.clone()
    losses = [found.step() for _ in range(30)]
    assert losses[-1] < losses[0]
    assert torch.equal(first, before)


def test_a_diverged_step_leaves_the_estimate_as_it_was() -> None:
    found = trainer(Digits(), estimator={"name": "clip"})
    found.step()
    estimate = found.estimate
    assert estimate is not None
    healthy = found.task
    found.task = Broken()
    with pytest.raises(DivergedError):
        found.step()
    assert found.estimate is estimate
    found.task = healthy
    found.step()
    assert found.estimate is not estimate


class Broken(Digits):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * float("nan")


def test_fp16_scales_do_not_show() -> None:
    found = trainer(Digits(), estimator={"name": "clip", "tau": 0.2, "memory": False}, precision="fp16")
    losses = [found.step() for _ in range(25)]
    assert losses[-1] < 0.85 * losses[0]


def test_more_microbatches_than_examples_are_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match="64 microbatches in a batch of 32"):
        trainer(Digits(), estimator={"name": "clip", "microbatches": 64})
