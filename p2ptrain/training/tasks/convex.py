"""Least squares and logistic regression with an L2 penalty: problems whose exact optimum every node can work out, so
that a run says how far from it the replicas are.

The data come with scikit-learn, from a person's own file, or are made up with a condition number of one's choice.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from p2ptrain.errors import ConfigError
from p2ptrain.seeds import numpy_random
from p2ptrain.training import tables
from p2ptrain.training.objective import CURVATURE, Kind, Objective, l2_for
from p2ptrain.training.tasks import Batch, Metrics, Task, initialising, register

BUNDLED = ("breast-cancer", "digits")
SYNTHETIC = "synthetic"
SUFFIXES = (".csv", ".npz")
MAX_DIM = 4096
"""The optimum takes as many operations as this cubed, several times."""
EVEN = 120
"""From four times as many examples on, a multiple of this is for training: equal parts for most numbers of nodes."""
NUM_BINS = 10
"""Labels of a regression: which tenth of the targets, in order, an example's lies in."""


@register("convex")
class Convex(Task):
    """A linear model; `gap` is its squared distance to the optimum of all training data, as a share of the untrained
    model's."""

    lr: float = Field(default=0.1, gt=0)
    problem: Kind = "logistic"
    """`logistic` tells 1 from 0; `least-squares` predicts a number, in standard deviations from the mean."""
    dataset: str = "breast-cancer"
    """`breast-cancer`; `digits` (odd or even; or which); `synthetic`; or a file: CSV, or npz with arrays x and y."""
    target: str | None = None
    """The column of a CSV to learn; left out, the last. All others are features."""
    condition: float = Field(default=100.0, gt=1, le=1e9)
    """L / mu: how hard the problem is. Where `l2` is left out, it is what makes it no more than this."""
    l2: float | None = Field(default=None, ge=0)
    """The penalty is `l2` / 2 times the squared norm of the weights, the constant term's included."""
    dim: int | None = Field(default=None, ge=2, le=MAX_DIM)
    """Of `synthetic`; left out, 20."""
    examples: int | None = Field(default=None, ge=2, le=1_000_000)
    """Of `synthetic`, for training; left out, 960."""
    whole: bool = False
    """Each step takes all of the node's examples instead of a random batch: exact gradients."""

    @model_validator(mode="after")
    def _goes_together(self) -> "Convex":
        is_file = self.dataset.endswith(SUFFIXES)
        if not (is_file or self.dataset in (*BUNDLED, SYNTHETIC)):
            known = ", ".join((*BUNDLED, SYNTHETIC))
            raise ValueError(
                f"unknown dataset {self.dataset!r}; choose one of {known}, or a file ending in .csv or .npz"
            )
        if self.target is not None and not is_file:
            raise ValueError(f"target names a column of a file; {self.dataset} has none")
        if self.dataset != SYNTHETIC and (self.dim is not None or self.examples is not None):
            raise ValueError(f"dim and examples are those of the file; leave them out with {self.dataset}")
        if self.problem == "logistic" and self.l2 == 0:
            raise ValueError("l2 must be above zero: without a penalty the optimum may be infinitely far away")
        if self.dataset == SYNTHETIC and (self.examples or 960) < (self.dim or 20):
            raise ValueError("examples must be no fewer than dim")
        if self.dataset == SYNTHETIC and (self.l2 or 0) * self.condition > 1 + 1e-9:
            raise ValueError("l2 must be no more than 1 / condition: L is 1 and mu no less than l2")
        return self

    def model(self, seed: int) -> nn.Module:
        with initialising(seed):
            return _Linear(self._data().rows.shape[1])

    def labels(self) -> np.ndarray:
        return self._data().labels

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> Batch:
        chosen = examples if self.whole else rng.choice(examples, self.batch_size)
        data = self._data()
        return _single(data.rows[chosen]), _single(data.targets[chosen])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """With the penalty."""
        rows, targets = batch
        weights = _weights(model)
        return _mean_loss(self.problem, rows @ weights, targets) + self._data().l2 / 2 * weights.square().sum()

    def evaluate(self, model: nn.Module) -> Metrics:
        data, weights = self._data(), _weights(model)
        margins = _single(data.held_out_rows).to(weights.device) @ weights
        targets = _single(data.held_out_targets).to(weights.device)
        loss = _mean_loss(self.problem, margins, targets).item()
        accuracy = ((margins > 0) == (targets > 0.5)).float().mean().item() if self.problem == "logistic" else None
        return Metrics(loss, accuracy, self.gap(model))

    def gap(self, model: nn.Module) -> float:
        """Squared distance to the optimum of all training data, over that of the untrained model."""
        assert isinstance(model, _Linear)
        optimum = self.objective().optimum
        now, start = (vector.detach().cpu().double().numpy() for vector in (model.weights, model.start))
        return float(((now - optimum) ** 2).sum() / ((start - optimum) ** 2).sum())

    def objective(self, examples: np.ndarray | None = None, shards: int = 1) -> Objective:
        """Of one of so many shards, with its L and mu, weighted so that the shards' mean is that of all the data; left
        out, of all the data."""
        data = self._data()
        if examples is None:
            return data.objective
        weight = len(examples) * shards / len(data.rows)
        return Objective(self.problem, data.rows[examples], data.targets[examples], data.l2, weight)

    def curvature(self, examples: np.ndarray) -> tuple[float, float]:
        data = self._data()
        own = Objective(self.problem, data.rows[examples], data.targets[examples], data.l2)
        return own.smoothness, own.convexity

    def _data(self) -> "_Data":
        if self.dataset == SYNTHETIC:
            return _make_up(self.problem, self.examples or 960, self.dim or 20, self.condition, self.l2)
        return _load(self.problem, self.dataset, self.target, self.condition, self.l2)


class _Linear(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(dim))
        self.start = self.weights.detach().clone()

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ self.weights


def _weights(model: nn.Module) -> Tensor:
    assert isinstance(model, _Linear)
    return model.weights


def _mean_loss(problem: Kind, margins: Tensor, targets: Tensor) -> Tensor:
    if problem == "least-squares":
        return (margins - targets).square().mean() / 2
    return functional.binary_cross_entropy_with_logits(margins, targets)


def _single(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


@dataclass(frozen=True)
class _Data:
    """All float64, but with numbers that float32 has, so that nodes train on what the optimum is of."""

    rows: np.ndarray
    targets: np.ndarray
    held_out_rows: np.ndarray
    held_out_targets: np.ndarray
    labels: np.ndarray
    """(n,) int64, of the training examples."""
    l2: float
    objective: Objective


class _Raw(NamedTuple):
    features: np.ndarray
    targets: np.ndarray


@lru_cache(maxsize=4)
def _load(problem: Kind, dataset: str, target: str | None, condition: float, l2: float | None) -> _Data:
    """Features standardised by the training examples, and a constant one. Raises `ConfigError`."""
    raw = _read(problem, dataset, target)
    if raw.features.shape[1] > MAX_DIM:
        raise ConfigError(
            f"{dataset}: {raw.features.shape[1]} features; with more than {MAX_DIM} the optimum takes too long"
        )
    order = numpy_random(0, "convex", len(raw.targets)).permutation(len(raw.targets))
    num_train = int(0.85 * len(order))
    num_train -= num_train % EVEN if num_train >= 4 * EVEN else 0
    if num_train < 2 or num_train == len(order):
        raise ConfigError(f"{dataset}: {len(order)} examples are too few; some are held out")
    train, held_out = order[:num_train], order[num_train:]
    mean, deviation = raw.features[train].mean(0), raw.features[train].std(0)
    constant = deviation <= 1e-12 * np.abs(mean)
    features = (raw.features - mean) / np.where(constant, 1.0, deviation) * ~constant
    rows = np.column_stack([features, np.ones(len(features))])
    targets = _targets(problem, dataset, raw.targets, train)
    l2 = l2_for(problem, rows[train], condition) if l2 is None else l2
    return _finish(problem, dataset, _Raw(rows[train], targets[train]), _Raw(rows[held_out], targets[held_out]), l2)


def _read(problem: Kind, dataset: str, target: str | None) -> _Raw:
    if dataset == "breast-cancer":
        return _Raw(*tables.bundled("breast_cancer.csv", skip_rows=1))
    if dataset == "digits":
        pixels, digits = tables.bundled("digits.csv.gz")
        return _Raw(pixels, digits % 2 if problem == "logistic" else digits)
    return _Raw(*tables.read(Path(dataset), target))


def _targets(problem: Kind, dataset: str, targets: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Checked; for least squares in standard deviations from the mean."""
    if problem == "logistic":
        others = targets[(targets != 0) & (targets != 1)]
        if len(others):
            raise ConfigError(
                f"{dataset}: logistic regression takes targets 0 and 1, not {others[0]:g}; or choose least-squares"
            )
    if np.ptp(targets[train]) == 0:
        raise ConfigError(f"{dataset}: all targets are {targets[0]:g}; is target the right column?")
    return targets if problem == "logistic" else (targets - targets[train].mean()) / targets[train].std()


@lru_cache(maxsize=4)
def _make_up(problem: Kind, num: int, dim: int, condition: float, l2: float | None) -> _Data:
    """The eigenvalues of the Hessian (for logistic regression: of its upper bound) go from 1 to 1 / condition, penalty
    included, along directions that no axis is one of."""
    rng = numpy_random(0, "convex", "synthetic", num, dim)
    l2 = 1 / condition if l2 is None else l2
    spectrum = np.maximum(np.geomspace(1, 1 / condition, dim) - l2, 0) / CURVATURE[problem]
    directions = np.linalg.qr(rng.normal(size=(dim, dim))).Q
    shape = np.sqrt(spectrum)[:, None] * directions.T
    rows = num**0.5 * np.linalg.qr(rng.normal(size=(num, dim))).Q @ shape
    everything = np.concatenate([rows, rng.normal(size=(num // 4 + 1, dim)) @ shape])
    truth = rng.normal(size=dim)
    signal = everything @ truth / (rows @ truth).std()
    if problem == "logistic":
        targets = (rng.random(len(signal)) < (1 + np.tanh(signal)) / 2).astype(np.float64)
    else:
        targets = signal + 0.3 * rng.normal(size=len(signal))
    targets = _targets(problem, SYNTHETIC, targets, np.arange(num))
    return _finish(problem, SYNTHETIC, _Raw(rows, targets[:num]), _Raw(everything[num:], targets[num:]), l2)


def _finish(problem: Kind, dataset: str, train: _Raw, held_out: _Raw, l2: float) -> _Data:
    rows, targets = (values.astype(np.float32).astype(np.float64) for values in train)
    objective = Objective(problem, rows, targets, l2)
    try:
        _ = objective.optimum
    except ConfigError as error:
        raise ConfigError(f"{dataset}: {error}") from None
    ranks = np.argsort(np.argsort(targets, kind="stable"), kind="stable")
    labels = targets if problem == "logistic" else ranks * NUM_BINS // len(ranks)
    return _Data(rows, targets, *held_out, labels.astype(np.int64), l2, objective)
