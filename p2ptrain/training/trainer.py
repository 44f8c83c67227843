"""Local training of one replica: batch, gradient, take in what the peers sent, update, publish."""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from p2ptrain.errors import ConfigError, P2PTrainError
from p2ptrain.seeds import numpy_random
from p2ptrain.training import curvature
from p2ptrain.training.estimators import Estimator
from p2ptrain.training.optimizers import make_optimizer
from p2ptrain.training.replica import Replica
from p2ptrain.training.tasks import Batch, Metrics, Task

Precision = Literal["fp32", "bf16", "fp16"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class DivergedError(P2PTrainError):
    """A loss or gradient is NaN or infinite. The step was left out; the trainer and its exchanges can go on."""


class Recipe(BaseModel):
    """How the local steps are taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: str | None = None
    """Any class of `torch.optim`; None: the task's."""
    lr: float | None = Field(default=None, gt=0)
    """None: the task's."""
    options: dict[str, Any] = {}
    """Further arguments of the optimizer, such as `momentum: 0.9`."""
    clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; longer ones are scaled down."""
    estimator: Estimator | None = None
    """A median of the gradients of parts of the batch; None: their mean."""
    schedule: Literal["constant", "cosine"] = "constant"
    """`cosine` brings the learning rate to zero at the end of the run."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the run over which the learning rate rises from one hundredth to its full value."""
    precision: Precision = "fp32"
    """Below fp32 the forward pass is autocast; weights and exchanges stay float32."""


class Trainer:
    """Owns the module, its replica's compute side and the optimizer. Lives on the compute thread."""

    def __init__(
        self, task: Task, replica: Replica, examples: np.ndarray, recipe: Recipe | None = None, *, seed: int, slot: int
    ) -> None:
        """`examples`: this node's part of the data. Raises `ConfigError` for an optimizer that cannot be made."""
        self.task, self.replica, self.module = task, replica, replica.module
        self.recipe = recipe = recipe or Recipe()
        self.examples, self.seed, self.slot = examples, seed, slot
        self.steps = 0
        self.is_fresh = True
        """It has the weights that the run begins with: no checkpoint was taken up, and nothing has been learned."""
        self.falsify: Callable[[Tensor], Tensor] | None = None
        """What a node that lies by its data makes of its targets."""
        self.lr = recipe.lr or task.lr
        self.estimate: Tensor | None = None  # (num_parameters,): what an estimator that remembers goes on from
        if recipe.estimator is not None and recipe.estimator.microbatches > task.batch_size:
            raise ConfigError(
                f"estimator: {recipe.estimator.microbatches} microbatches in a batch of {task.batch_size}; "
                f"lower microbatches or raise task.batch_size"
            )
        self.optimizer_name = recipe.optimizer or task.optimizer
        self.optimizer = make_optimizer(self.module, self.optimizer_name, self.lr, recipe.options)
        device = replica.device.type
        self.scaler = torch.amp.GradScaler(device, enabled=recipe.precision == "fp16")
        self._autocast = torch.autocast(device, _AUTOCAST.get(recipe.precision), enabled=recipe.precision != "fp32")

    def step(self, progress: float = 0.0) -> float:
        """One training step; its loss. `progress` in [0, 1] through the run is what the schedule follows.

        Raises `DivergedError` instead of updating with a loss or gradient that is not finite."""
        rate = self.lr * learning_rate_factor(self.recipe, progress) * self._first_steps_factor()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        buffers = self._buffers().clone()
        self.module.train()
        loss, estimate = self._backward(self.batch(self.steps))
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        # Reading the values waits for the device, so that `absorb` and `publish` hold their lock only for the copying.
        value, norm = loss.item(), norm.item()
        # A gradient that overflowed in fp16 only means that the scaler's factor is too large: it skips the step itself.
        diverged = not math.isfinite(value) or (not math.isfinite(norm) and not self.scaler.is_enabled())
        if diverged:
            self._buffers().copy_(buffers)
        self.replica.absorb()
        if not diverged:
            self.scaler.step(self.optimizer)
            self.estimate = estimate if math.isfinite(norm) else self.estimate
        self.scaler.update()
        self.optimizer.zero_grad()
        self.replica.publish()
        self.steps += 1
        if diverged:
            raise DivergedError(
                f"step {self.steps}: loss {value:g}, gradient norm {norm:g}; lower lr ({rate:g}) or set clip"
            )
        return value

    def gradient(self, at: Tensor) -> tuple[float, Tensor]:
        """Loss and gradient, (d,), of the next batch at another point, (d,), which becomes the replica: for methods
        that take steps of their own. Counts as a step. Raises `DivergedError`."""
        self.replica.load(at)
        self.module.train()
        loss, _ = self._backward(self.batch(self.steps))
        norm = self._clip()
        gradients = [each.grad for each in self.module.parameters() if each.grad is not None]
        found = nn.utils.parameters_to_vector(gradients) / self.scaler.get_scale()
        self.module.zero_grad()
        self.steps += 1
        if not math.isfinite(value := loss.item()) or not math.isfinite(norm.item()):
            raise DivergedError(f"step {self.steps}: loss {value:g}, gradient norm {norm.item():g}")
        return value, found.cpu()

    def curvature(self) -> tuple[float, float]:
        """L and mu of this node's loss: as the task knows them, or as one batch shows them here."""
        if (known := self.task.curvature(self.examples)) is not None:
            return known
        parameters = [each for each in self.module.parameters() if each.requires_grad]
        return curvature.extremes(self.loss(self.batch(0)), parameters, self.seed)

    def evaluate(self) -> Metrics:
        """On the task's held-out data, corrections received so far included."""
        self.replica.settle()
        self.module.eval()
        try:
            with torch.no_grad(), self._autocast:
                return self.task.evaluate(self.module)
        finally:
            self.module.train()

    def batch(self, step: int) -> Batch:
        """The batch of one step, on the device: a function of (seed, slot, step), so a resumed run sees the same."""
        rng = numpy_random(self.seed, "batch", self.slot, step)
        inputs, targets = self.task.batch(self.examples, rng)
        if self.falsify is not None:
            targets = self.falsify(targets)
        return inputs.to(self.replica.device), targets.to(self.replica.device)

    def loss(self, batch: Batch) -> Tensor:
        """Scalar loss at the present weights."""
        with self._autocast:
            return self.task.loss(self.module, batch)

    def _backward(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Leaves the gradient, scaled, with the parameters; the loss, (), and what the estimator remembers of it."""
        if (estimator := self.recipe.estimator) is None:
            loss = self.loss(batch)
            self.scaler.scale(loss).backward()
            return loss, None
        parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        losses, gradients, scale = [], [], self.scaler.get_scale()
        for part in zip(*(each.tensor_split(estimator.microbatches) for each in batch), strict=True):
            losses.append(self.loss(part))
            found = torch.autograd.grad(self.scaler.scale(losses[-1]), parameters, materialize_grads=True)
            gradients.append(nn.utils.parameters_to_vector(found) / scale)
        estimate = estimator(torch.stack(gradients), self.estimate)
        for parameter, gradient in zip(parameters, estimate.split([each.numel() for each in parameters]), strict=True):
            parameter.grad = (gradient * scale).view_as(parameter)
        return torch.stack(losses).mean(), estimate if estimator.remembers else None

    def _first_steps_factor(self) -> float:
        return min(1.0, (self.steps + 1) / (self.task.warmup_steps + 1))

    def _clip(self) -> Tensor:
        """Norm of the whole gradient, (), before clipping."""
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.recipe.clip is not None:
            nn.utils.clip_grads_with_norm_(self.module.parameters(), self.recipe.clip, norm)
        return norm

    def _buffers(self) -> Tensor:
        return self.replica.flat[self.replica.num_parameters :]


def learning_rate_factor(recipe: Recipe, progress: float) -> float:
    """In [0, 1]: linear warm-up, then constant or half a cosine; `progress` beyond [0, 1] counts as its end."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < recipe.warmup:
        return max(0.01, progress / recipe.warmup)
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - recipe.warmup) / (1 - recipe.warmup)))
