"""Learning from history (Karimireddy, He and Jaggi 2021, arXiv:2012.10333): lies that hide in the noise of each single
step, all of them in one direction, add up over time. A rule that looks at one step's gradients cannot see them, however
robust it is; averaged over many steps the honest noise is too small to hide in, and centred clipping bears them."""

import numpy as np
import torch

from p2ptrain import aggregators, attacks
from p2ptrain.aggregators import Aggregator
from p2ptrain.attacks import Scene

HONEST, LIARS, DIM, STEPS, RATE = 17, 8, 50, 400, 0.03
MEDIAN, KRUM = aggregators.make("median"), aggregators.make("krum", f=LIARS)
CLIPPING = aggregators.make("centered-clip", centre="previous")


def distance(rule: Aggregator, momentum: float, lies: bool) -> float:
    """From the optimum of |x|^2 / 2, mean of the last steps; the start is at 7. All see the gradient with noise of
    unit variance in each coordinate; `m <- momentum m + (1 - momentum) g` is what the rule is given."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    alie = attacks.make("alie", strength=1.0)
    x, momenta, moved, last = torch.ones(DIM), torch.zeros(HONEST + LIARS, DIM), torch.zeros(DIM), []
    for step in range(STEPS):
        gradients = x + torch.randn(HONEST + LIARS, DIM, generator=generator)
        momenta = momentum * momenta + (1 - momentum) * gradients
        told = momenta.clone()
        if lies:
            told[HONEST:] = alie(told[0], told[:HONEST], rng, scene=Scene(liars=LIARS))
        moved = rule(moved, told) if rule is CLIPPING else rule(told[0], told[1:])
        x = x - RATE * moved
        if step >= STEPS - 100:
            last.append(float(x.norm()))
    return sum(last) / len(last)


def test_without_liars_all_come_near() -> None:
    for rule in (MEDIAN, KRUM, CLIPPING):
        assert distance(rule, 0.0, lies=False) < 1.2


def test_lies_within_the_noise_add_up_where_nothing_is_remembered() -> None:
    for rule in (MEDIAN, KRUM):
        assert distance(rule, 0.0, lies=True) > 4


def test_clipping_of_momenta_bears_them() -> None:
    attacked = distance(CLIPPING, 0.98, lies=True)
    assert attacked < 1.5 * distance(CLIPPING, 0.98, lies=False) + 0.2
    assert attacked < 1
