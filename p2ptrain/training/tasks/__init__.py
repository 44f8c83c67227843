"""Tasks: what is learned. Each is one file in this folder, or one Python file of the user's (`task: ./mine.py`)."""

import importlib.util
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from p2ptrain.errors import ConfigError
from p2ptrain.registry import Component, Registry
from p2ptrain.seeds import derive
from p2ptrain.training.starts import Lora, add_lora, load

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Metrics:
    """On held-out data. `loss` in nats per example (per byte for text); `accuracy` in [0, 1], or None.

    `gap`, where the optimum of the training data is known: the squared distance to it, as a share of the untrained
    model's."""

    loss: float
    accuracy: float | None
    gap: float | None = None


class Task(Component):
    """A model, its data and its loss: functions of the fields and a seed, so that every node derives the same."""

    optimizer: str = "SGD"
    """Any class of `torch.optim`; the strategy may override it."""
    lr: float = Field(default=0.1, gt=0)
    batch_size: int = Field(default=32, gt=0)
    """Examples per step."""
    warmup_steps: int = Field(default=0, ge=0)
    """A node's first steps, in which its learning rate grows: Adam's statistics are noise at first, a joiner's too."""
    weights: Path | None = None
    """Start from the `final.safetensors` that a node of an earlier run of the same model has left."""
    lora: Lora | None = None
    """Train low-rank adapters instead of the weights; needs the extra `finetune`."""

    def start(self, seed: int) -> nn.Module:
        """The model that a run begins with, the same on every node. Raises `ConfigError`."""
        model = self.model(seed)
        if self.weights is not None:
            load(model, self.weights)
        if self.lora is not None:
            add_lora(model, self.lora, seed)
        return model

    def model(self, seed: int) -> nn.Module:
        """The untrained model, the same on every node."""
        raise NotImplementedError

    def labels(self) -> np.ndarray:
        """(n,) int64, one label per training example: what `by-label` and `dirichlet` splits are cut by."""
        raise NotImplementedError

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> Batch:
        """(inputs, targets) on the CPU, drawn with `rng` from the training examples with these indices."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scalar mean loss of one batch on the model's device, differentiable."""
        raise NotImplementedError

    def curvature(self, examples: np.ndarray) -> tuple[float, float] | None:
        """The most and the least that the loss of these examples curves anywhere, L and mu; None: not known, so that
        it is estimated where the model is."""
        return None

    def evaluate(self, model: nn.Module) -> Metrics:
        """On held-out data, the same on every node; the caller has set `model.eval()` and `torch.no_grad()`."""
        raise NotImplementedError


@contextmanager
def initialising(seed: int) -> Iterator[None]:
    """Modules built inside draw their weights from `seed`; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "model"))
        yield


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters lie."""
    return next(model.parameters()).device


registry: Registry[Task] = Registry("task", __name__)
register, names, get = registry.register, registry.names, registry.get


def make(name: str, /, **options: Any) -> Task:
    """A task by name, or the one task of a Python file when `name` ends in `.py`."""
    if name.endswith(".py"):
        _register_file(Path(name))
    return registry.make(name, **options)


def parse(value: Any) -> Any:
    """As `Registry.parse`, with files."""
    name = value.get("name") if isinstance(value, dict) else value
    if isinstance(name, str) and name.endswith(".py"):
        try:
            _register_file(Path(name))
        except ConfigError as error:
            raise ValueError(str(error)) from None
    return registry.parse(value)


def _register_file(path: Path) -> None:
    """Import a user's task file and register the one `Task` subclass that it defines under the file's own path."""
    if str(path) in registry.loaded():
        return
    if not path.is_file():
        raise ConfigError(f"no task file at {path}")
    spec = importlib.util.spec_from_file_location(f"p2ptrain_task_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"task file {path} cannot be imported: {type(error).__name__}: {error}") from error
    found = [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, Task) and cls.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(
            f"task file {path} must define exactly one subclass of p2ptrain.training.tasks.Task, found {len(found)}"
        )
    registry.register(str(path))(found[0])
