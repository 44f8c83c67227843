"""The lie that moves the recipient furthest: a search along a line, as in the experiments of MoNNA and byzfl."""

from collections.abc import Callable

import torch
from torch import Tensor

from p2ptrain.attacks import Scene
from p2ptrain.attacks._honest import others, recipient_row
from p2ptrain.errors import TooFewError

EVALUATIONS = 16


def strongest(lie: Callable[[float], Tensor], seen: Tensor, to: int, scene: Scene) -> float:
    """The strength in [0, inf) whose lie, told by all, takes the recipient furthest from the honest mean.

    Raises `ValueError` without a rule to try lies on."""
    if scene.rule is None:
        raise ValueError("the strongest lie depends on the recipient's rule: say which in the scene, or set a strength")
    rule, row, mean = scene.rule, recipient_row(scene, to, len(seen)), seen.mean(0)
    honest = others(seen, row)

    def damage(strength: float) -> float:
        said = lie(strength).expand(scene.liars, -1)
        try:
            return float(torch.dist(rule(seen[row], torch.cat([honest, said])), mean))
        except TooFewError:
            return 0.0

    return climb(damage, EVALUATIONS)


def climb(value: Callable[[float], float], evaluations: int) -> float:
    """The best of so many places in [0, inf): first in steps that double while they help, then in ever smaller ones to
    both sides."""
    best, step = 0.0, 1.0
    highest = value(best)
    left = evaluations - 1
    while left and (found := value(best + step)) > highest:
        best, highest, step, left = best + step, found, 2 * step, left - 1
    left -= 1
    while left > 0:
        step *= 0.5
        for place in (best + step, best - step):
            if left > 0 and place >= 0:
                left -= 1
                if (found := value(place)) > highest:
                    best, highest = place, found
                    break
    return best
