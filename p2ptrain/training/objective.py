"""Convex functions of one vector with known constants: least squares and logistic regression, L2 regularised.

    f(w) = weight * mean over the examples of loss(<w, row>, target) + l2 / 2 |w|^2

All in float64 and without chance, so that every node that has the data finds the same optimum.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from p2ptrain.errors import ConfigError

Kind = Literal["least-squares", "logistic"]
CURVATURE: dict[Kind, float] = {"least-squares": 1.0, "logistic": 0.25}
"""The most that the second derivative of the loss by <w, row> can be."""
MAX_NEWTON_STEPS = 100


@dataclass(frozen=True)
class Objective:
    kind: Kind
    rows: np.ndarray
    """(n, d) float64"""
    targets: np.ndarray
    """(n,) float64: any number for least squares, 0 or 1 for logistic regression."""
    l2: float
    weight: float = 1.0
    """Of the loss, not of the penalty. A shard's: its share of all examples times the number of shards, so that the
    mean of the shards' functions is that of all the data."""

    def value(self, w: np.ndarray) -> float:
        margins = self.rows @ w
        if self.kind == "least-squares":
            losses = (margins - self.targets) ** 2 / 2
        else:
            losses = np.logaddexp(0, margins) - self.targets * margins
        return float(self.weight * losses.mean() + self.l2 / 2 * (w @ w))

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """(d,)"""
        margins = self.rows @ w
        guesses = margins if self.kind == "least-squares" else _sigmoid(margins)
        return self.weight / len(self.rows) * (self.rows.T @ (guesses - self.targets)) + self.l2 * w

    def hessian(self, w: np.ndarray) -> np.ndarray:
        """(d, d)"""
        guesses = _sigmoid(self.rows @ w)
        curvatures = np.ones(len(self.rows)) if self.kind == "least-squares" else guesses * (1 - guesses)
        scaled = self.weight / len(self.rows) * curvatures[:, None] * self.rows
        return self.rows.T @ scaled + self.l2 * np.eye(self.rows.shape[1])

    @cached_property
    def smoothness(self) -> float:
        """L: no eigenvalue of a Hessian is larger anywhere."""
        return float(self._spectrum[-1] + self.l2)

    @cached_property
    def convexity(self) -> float:
        """mu: no eigenvalue of a Hessian is smaller anywhere. Far out, the logistic loss itself has no curvature."""
        return float(max(self._spectrum[0], 0.0) + self.l2) if self.kind == "least-squares" else self.l2

    @cached_property
    def optimum(self) -> np.ndarray:
        """(d,), by Newton's method. Raises `ConfigError` where there is none, or more than one."""
        if self.convexity <= 1e-12 * self.smoothness:
            raise ConfigError("the problem is singular: it has no optimum, or many; set l2 above zero")
        w = np.zeros(self.rows.shape[1])
        size = float(np.linalg.norm(self.gradient(w))) + self.smoothness
        for _ in range(MAX_NEWTON_STEPS):
            gradient = self.gradient(w)
            if np.linalg.norm(gradient) <= 1e-15 * size:
                break
            step = np.linalg.solve(self.hessian(w), -gradient)
            length = self._length(w, step, gradient)
            if length == 0.0:
                break
            w = w + length * step
        return w

    def _length(self, w: np.ndarray, step: np.ndarray, gradient: np.ndarray) -> float:
        """Halved until the value falls; near the optimum, where rounding hides that, until the gradient does."""
        value, slope, norm = self.value(w), float(gradient @ step), float(np.linalg.norm(gradient))
        length = 1.0
        while length > 1e-6:
            there = w + length * step
            if self.value(there) < value + 1e-4 * length * slope or np.linalg.norm(self.gradient(there)) < norm / 2:
                return length
            length /= 2
        return 0.0

    @cached_property
    def _spectrum(self) -> np.ndarray:
        """(d,), ascending: eigenvalues of the loss's Hessian where it curves most."""
        gram = self.rows.T @ self.rows * (self.weight * CURVATURE[self.kind] / len(self.rows))
        return np.linalg.eigvalsh(gram)


def l2_for(kind: Kind, rows: np.ndarray, condition: float) -> float:
    """The penalty with which L is `condition` times the penalty itself, the least that mu can be."""
    return Objective(kind, rows, np.zeros(len(rows)), 0.0).smoothness / (condition - 1)


def _sigmoid(margins: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(margins / 2)) / 2
