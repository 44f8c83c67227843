import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from p2ptrain.errors import ConfigError, PeerBusy
from p2ptrain.training.optimizers import make_optimizer
from p2ptrain.training.replica import Replica
from p2ptrain.training.tasks import Batch, Metrics, Task
from p2ptrain.training.tasks.charlm import CharLM
from p2ptrain.training.tasks.digits import Digits
from p2ptrain.training.trainer import DivergedError, Recipe, Trainer, learning_rate_factor


class Slope(Task):
    """w -> input * w, with batch norm statistics beside it: gradients can be told by hand."""

    lr: float = 1.0

    def model(self, seed: int) -> nn.Module:
        model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False))
        nn.init.zeros_(model[0].get_parameter("weight"))
        return model

    def labels(self) -> np.ndarray:
        return np.zeros(4, dtype=np.int64)

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> Batch:
        inputs = torch.from_numpy(examples.astype(np.float32)).view(-1, 1)
        return inputs, inputs

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        model(batch[0])
        return model.get_submodule("0")(batch[0]).mean()

    def evaluate(self, model: nn.Module) -> Metrics:
        assert not model.training
        assert not torch.is_grad_enabled()
        return Metrics(model.get_submodule("0").get_parameter("weight").item(), None)


def slope(inputs: list[float], **recipe: Any) -> Trainer:
    task = Slope()
    return Trainer(task, Replica(task.model(0)), np.array(inputs), Recipe(**recipe), seed=0, slot=0)


def digits(slot: int = 0, task: Task | None = None, **recipe: Any) -> Trainer:
    task = task or Digits()
    return Trainer(task, Replica(task.model(0)), np.arange(200), Recipe(**recipe), seed=0, slot=slot)


def test_same_seed_and_slot_give_the_same_bits() -> None:
    one, two, other = digits(), digits(), digits(slot=1)
    for trainer in (one, two, other):
        for _ in range(5):
            trainer.step()
    assert one.replica.digest() == two.replica.digest() != other.replica.digest()


def test_batches_depend_on_the_step_alone() -> None:
    used, fresh = digits(), digits()
    for _ in range(3):
        used.step()
    assert torch.equal(used.batch(7)[0], fresh.batch(7)[0])
    assert not torch.equal(fresh.batch(7)[0], fresh.batch(8)[0])


def test_each_step_takes_in_corrections_and_publishes() -> None:
    trainer = slope([1, 1])
    lease = trainer.replica.lease()
    torch.add(lease.own, 5.0, out=lease.out)
    trainer.replica.commit(lease)
    trainer.step()
    assert trainer.replica.snapshot()[0] == 4  # 0 + 5 - lr * 1
    assert trainer.steps == 1


def test_evaluation_sees_corrections_and_leaves_the_module_training() -> None:
    trainer = slope([1, 1])
    lease = trainer.replica.lease()
    lease.out.fill_(2)
    trainer.replica.commit(lease)
    assert trainer.evaluate() == Metrics(2.0, None)
    assert trainer.module.training


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_diverged_step_changes_nothing_but_lets_exchanges_through(poison: float) -> None:
    trainer = slope([1, 1])
    trainer.step()
    before = trainer.replica.snapshot()
    lease = trainer.replica.lease()
    torch.add(lease.own, 1.0, out=lease.out)
    trainer.replica.commit(lease)
    trainer.examples = np.array([1, poison])
    with pytest.raises(DivergedError, match=r"step 2: loss .* lower lr"):
        trainer.step()
    assert torch.equal(trainer.replica.snapshot(), before + 1)
    trainer.examples = np.array([1.0, 1.0])
    trainer.step()
    assert trainer.replica.snapshot()[0] == before[0]
    assert trainer.steps == 3


def test_clipping_bounds_the_update() -> None:
    trainer = slope([3, 5], clip=0.5)
    trainer.step()
    assert trainer.replica.snapshot()[0].item() == pytest.approx(-0.5, rel=1e-4)


def test_the_schedule_moves_the_learning_rate() -> None:
    cosine = Recipe(schedule="cosine", warmup=0.2)
    factors = [learning_rate_factor(cosine, progress) for progress in (0.0, 0.1, 0.2, 0.6, 1.0, 1.5)]
    assert factors == pytest.approx([0.01, 0.5, 1.0, 0.5, 0.0, 0.0])
    assert learning_rate_factor(Recipe(), 0.7) == 1
    assert learning_rate_factor(Recipe(schedule="cosine"), 0.0) == 1
    trainer = slope([1, 1], schedule="cosine", lr=2.0)
    trainer.step(progress=0.5)
    assert trainer.replica.snapshot()[0].item() == pytest.approx(-1)


def test_a_tasks_first_steps_are_smaller() -> None:
    trainer = digits(task=Digits(warmup_steps=3))
    rates = []
    for _ in range(5):
        trainer.step()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("task", [Digits(network="cnn"), CharLM()], ids=lambda task: task.name)
def test_low_precision_learns_and_keeps_float32_weights(precision: str, task: Task) -> None:
    trainer = digits(task=task, precision=precision)
    losses = [trainer.step() for _ in range(25)]
    assert losses[-1] < 0.85 * losses[0]
    assert trainer.replica.flat.dtype == torch.float32
    assert math.isfinite(trainer.evaluate().loss)


def test_overflow_in_fp16_is_the_scalers_business() -> None:
    trainer = slope([3, 5], precision="fp16")
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 3e38})
    trainer.step()
    assert trainer.replica.snapshot()[0] == 0
    assert trainer.scaler.get_scale() < 3e38


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adagrad", "NAdam", "RMSprop", "Adafactor"])
def test_optimizers_by_name(name: str) -> None:
    trainer = digits(optimizer=name, lr=0.01)
    assert type(trainer.optimizer).__name__ == name
    losses = [trainer.step() for _ in range(20)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"optimizer": "Adamw"}, "unknown 'Adamw'; choose one of .*AdamW"),
        ({"optimizer": "LBFGS"}, "unknown 'LBFGS'"),
        ({"optimizer": "lr_scheduler"}, "unknown 'lr_scheduler'"),
        ({"options": {"momentums": 0.9}}, "SGD: .*momentums"),
        ({"options": {"momentum": -1}}, "SGD: .*momentum"),
    ],
)
def test_wrong_optimizers_are_the_users_mistake(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        digits(**recipe)


NOT_HERE = {"LBFGS", "Muon", "Optimizer", "SparseAdam"}
"""Muon takes matrices alone."""
OPTIMIZERS = sorted(name for name in vars(torch.optim) if name[0].isupper() and name not in NOT_HERE)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_do_what_those_of_torch_do(name: str) -> None:
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    plain = getattr(torch.optim, name)(theirs.parameters(), lr=0.1)
    optimizer = make_optimizer(ours, name, 0.1, {})
    assert isinstance(optimizer, type(plain))
    counted: list[torch.optim.Optimizer] = []
    optimizer.register_step_post_hook(lambda made, args, kwargs: counted.append(made))
    for step in range(4):
        for module, each in ((ours, optimizer), (theirs, plain)):
            module(torch.arange(4.0) + step).square().sum().backward()
            each.step()
            each.zero_grad()
    assert len(counted) == 4
    assert all(torch.equal(*pair) for pair in zip(ours.parameters(), theirs.parameters(), strict=True))
    plain.load_state_dict(optimizer.state_dict())
    optimizer.load_state_dict(plain.state_dict())


def test_training_does_without_the_compiler_and_leaves_it_to_others() -> None:
    script = f"""
import sys
import numpy as np, torch
from p2ptrain.training.optimizers import make_optimizer
from p2ptrain.training.replica import Replica
from p2ptrain.training.tasks.digits import Digits
from p2ptrain.training.trainer import Recipe, Trainer

task = Digits()
for name in {OPTIMIZERS}:
    trainer = Trainer(task, Replica(task.model(0)), np.arange(9), Recipe(optimizer=name), seed=0, slot=0)
    trainer.step()
print("torch._dynamo" in sys.modules)
theirs = torch.optim.AdamW(trainer.module.parameters())
theirs.step()
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_lease_across_steps_neither_stops_training_nor_changes() -> None:
    trainer = digits()
    lease = trainer.replica.lease()
    lent = lease.own.clone()
    for _ in range(3):
        trainer.step()
    assert torch.equal(lease.own, lent)
    assert not torch.equal(trainer.replica.flat, lent)
    with pytest.raises(PeerBusy):
        trainer.replica.lease()
