"""The maths of DADAO (Nabli and Oyallon 2022, arXiv:2208.00779), with the constants of its published implementation.

Six vectors a node: x and y are the primal and the dual variable, z the dual variable of consensus, and each has a
momentum. In between events

    x' = eta (x~ - x)      y' = alpha (y~ - y)               z' = alpha (z~ - z)
    x~' = eta~ (x - x~)    y~' = -theta (y + z + nu x~)      z~' = alpha~ (z - z~)

is linear, so a state can be brought to any later time at once, when it is next needed.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from p2ptrain.errors import ConfigError


class State(NamedTuple):
    """Of one node; all (d,), of one dtype. `x` is the model."""

    x: Tensor
    x_tilde: Tensor
    y: Tensor
    y_tilde: Tensor
    z: Tensor
    z_tilde: Tensor


class Constants(NamedTuple):
    """The same on all nodes; time is counted in gradients of a node."""

    nu: float
    eta: float
    eta_tilde: float
    alpha: float
    alpha_tilde: float
    theta: float
    beta: float
    beta_tilde: float
    delta: float
    delta_tilde: float
    gamma: float
    gamma_tilde: float


def constants(smoothness: float, convexity: float, chi1: float, chi2: float) -> Constants:
    """`smoothness` L is no smaller, `convexity` mu no larger than any node's; `chi1` and `chi2` are those of the graph
    with its rates, in exchanges per unit of time. See `check_rates` for how high these must be.

    Raises `ConfigError` for numbers that no problem and no connected graph has."""
    if not (math.isfinite(smoothness) and 0 < convexity <= smoothness):
        raise ConfigError(
            f"dadao needs 0 < mu <= L, not mu {convexity:g} and L {smoothness:g}: an L2 penalty makes a "
            "problem strongly convex"
        )
    if not (0 < chi1 < math.inf and 0 < chi2 < math.inf):
        raise ConfigError(
            f"dadao needs finite chi1 and chi2 above zero, not {chi1:g} and {chi2:g}: is the graph connected by edges "
            "with a rate above zero?"
        )
    nu = convexity / 2
    root = math.sqrt(nu / smoothness)
    return Constants(
        nu=nu,
        eta=root / 8,
        eta_tilde=root / 8,
        alpha=root / 4,
        alpha_tilde=root / 8,
        theta=1 / (2 * root),
        beta=1 / 2,
        beta_tilde=2 * chi1 / root,
        delta=root / 4,
        delta_tilde=1.0,
        gamma=1 / (4 * smoothness),
        gamma_tilde=1 / (4 * math.sqrt(smoothness * nu)),
    )


def check_rates(chi1: float, chi2: float) -> None:
    """Raises `ConfigError` when exchanges are too rare for the flow to be stable: chi1 * chi2 must be 1/2 at most."""
    if not chi1 * chi2 <= 0.5 * (1 + 1e-9):
        factor = math.sqrt(2 * chi1 * chi2)
        raise ConfigError(
            f"dadao would diverge: chi1 * chi2 is {chi1 * chi2:.3g}, and 0.5 is the most; exchange {factor:.3g} times "
            "as often on each edge, or take the rates from graph.uniform_rates() or graph.optimal_rates()"
        )


def flow(state: State, dt: float, constants: Constants) -> State:
    """The state `dt` later, if nothing happens meanwhile: exact, whatever `dt`."""
    matrix = torch.from_numpy(propagator(dt, constants)).to(state.x)
    return State(*(matrix @ torch.stack(state)))


def gradient_event(state: State, gradient: Tensor, constants: Constants) -> State:
    """`gradient`, (d,): of this node's function at `state.x`."""
    x, x_tilde, y, y_tilde, z, z_tilde = state
    step = gradient - constants.nu * x - y_tilde
    return State(
        x - constants.gamma * step,
        x_tilde - constants.gamma_tilde * step,
        y,
        y_tilde + (constants.delta + constants.delta_tilde) * step,
        z,
        z_tilde,
    )


def message(state: State) -> Tensor:
    """(d,): the one vector that each end of an exchange sends."""
    return state.y + state.z


def jump(state: State, sent: Tensor, received: Tensor, constants: Constants) -> State:
    """One end of an exchange; `sent` and `received` as they went over the wire, so that the other end's jump is the
    exact opposite. The state may have flowed and taken gradients since it was sent, but made no other exchange."""
    difference = sent - received
    return state._replace(
        z=state.z - constants.beta * difference, z_tilde=state.z_tilde - constants.beta_tilde * difference
    )


def exchange_event(state_i: State, state_j: State, constants: Constants) -> tuple[State, State]:
    """Both ends at once. What one gains the other loses: the sums of z and of z~ over the nodes stay."""
    at_i, at_j = message(state_i), message(state_j)
    return jump(state_i, at_i, at_j, constants), jump(state_j, at_j, at_i, constants)


def propagator(dt: float, constants: Constants) -> np.ndarray:
    """(6, 6) float64: the exponential of `dt` times the flow's matrix, in the order of `State`."""
    eta, alpha, alpha_tilde = constants.eta, constants.alpha, constants.alpha_tilde
    total, nu = alpha + alpha_tilde, constants.nu
    fast, slow = math.exp(-2 * eta * dt), math.exp(-total * dt)
    matrix = np.zeros((6, 6))
    matrix[:2, :2] = [[(1 + fast) / 2, (1 - fast) / 2], [(1 - fast) / 2, (1 + fast) / 2]]
    matrix[2:4, 2:4], steady, with_z, with_x = _dual(dt, constants)
    # x~ and z as the sums of a part that stays and one that decays, each of which drives y in its own way.
    matrix[2:4, 0] = nu / 2 * (steady - with_x)
    matrix[2:4, 1] = nu / 2 * (steady + with_x)
    matrix[2:4, 4] = (alpha_tilde * steady + alpha * with_z) / total
    matrix[2:4, 5] = alpha / total * (steady - with_z)
    matrix[4, 4:] = (alpha_tilde + alpha * slow) / total, alpha * (1 - slow) / total
    matrix[5, 4:] = alpha_tilde * (1 - slow) / total, (alpha + alpha_tilde * slow) / total
    return matrix


def _dual(dt: float, constants: Constants) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(2, 2): what becomes of (y, y~) left to themselves; and three (2,): what a force (0, -theta) exp(-k t) has made
    of them by `dt`, for k of 0, of z and of x."""
    alpha, theta = constants.alpha, constants.theta
    # alpha theta is 1/8 by the choice of constants, and alpha at most 1/4, so they always swing.
    damping, swing = alpha / 2, math.sqrt(alpha * theta - alpha**2 / 4)
    decay, cosine, sine = math.exp(-damping * dt), math.cos(swing * dt), math.sin(swing * dt) / swing
    free = decay * np.array([[cosine - damping * sine, alpha * sine], [-theta * sine, cosine + damping * sine]])

    def driven(k: float) -> np.ndarray:
        """(A + k)^-1 (exp(A dt) - exp(-k dt)) (0, -theta), with A = [[-alpha, alpha], [-theta, 0]]."""
        upper, lower = -theta * free[0, 1], -theta * (free[1, 1] - math.exp(-k * dt))
        determinant = k * (k - alpha) + alpha * theta
        return np.array([k * upper - alpha * lower, theta * upper + (k - alpha) * lower]) / determinant

    return free, driven(0.0), driven(alpha + constants.alpha_tilde), driven(2 * constants.eta)
