"""The optimizers of `torch.optim`, by name, without torch's compiler.

torch.optim asks `torch._dynamo` for a graph's end at each step, and keeps it out of everything else: for which it is
imported whole, with a second or two of CPU time and 71 MB that no node needs. Here no step is ever part of a graph, so
these are the same optimizers with those wrappers taken off.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from p2ptrain.errors import ConfigError

_UNUSABLE = {"Optimizer", "LBFGS", "SparseAdam"}
"""A base class; needs to call the loss itself; wants sparse gradients."""
_WRAPPED = ("zero_grad", "add_param_group", "state_dict", "load_state_dict")


def make_optimizer(module: nn.Module, name: str, lr: float, options: dict[str, Any]) -> torch.optim.Optimizer:
    """Of what can be trained in `module`. Raises `ConfigError` naming the optimizer or the option that does not exist,
    and for parameters that this optimizer does not take."""
    known = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and key not in _UNUSABLE
    }
    if name not in known:
        raise ConfigError(f"optimizer: unknown {name!r}; choose one of {', '.join(sorted(known))}")
    parameters = (parameter for parameter in module.parameters() if parameter.requires_grad)
    try:
        return _plain(known[name])(parameters, **{"lr": lr, **options})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer {name}: {error}") from None


@cache
def _plain(optimizer: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The same class with what its methods wrap in their place."""
    whole = inspect.unwrap(optimizer.step)

    def step(self: torch.optim.Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            return whole(self, closure)

    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in _WRAPPED}
    return type(optimizer.__name__, (optimizer,), {"step": step, **methods})
