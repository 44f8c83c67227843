"""The contract of every task, shipped or of the user's."""

from pathlib import Path

import numpy as np
import pytest
import torch

from p2ptrain.errors import ConfigError
from p2ptrain.seeds import numpy_random
from p2ptrain.training import tasks
from p2ptrain.training.replica import Replica

SHIPPED = [name for name in tasks.names() if name != "hf-causal"]
"""That one brings no model of its own: `test_hf_causal.py`."""
USER_TASK = """
import torch
from p2ptrain.training.tasks import Metrics, Task

class Mine(Task):
    offset: float = 0.0

    def model(self, seed):
        return torch.nn.Linear(1, 1)
"""


@pytest.mark.parametrize("name", SHIPPED)
def test_models_are_a_function_of_the_seed_and_leave_torchs_generator_alone(name: str) -> None:
    task = tasks.make(name)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = Replica(task.model(1))
    assert torch.equal(torch.rand(3), expected)
    assert first.digest() == Replica(task.model(1)).digest() != Replica(task.model(2)).digest()


@pytest.mark.parametrize("name", SHIPPED)
def test_batches_come_from_the_given_examples_and_generator(name: str) -> None:
    task = tasks.make(name)
    mine = np.arange(5)
    first, again, other = (task.batch(mine, numpy_random(0, stream)) for stream in ("a", "a", "b"))
    assert len(first[0]) == len(first[1]) == task.batch_size
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("name", SHIPPED)
def test_loss_is_a_differentiable_scalar_and_evaluation_repeats(name: str) -> None:
    task = tasks.make(name)
    model = task.model(0)
    loss = task.loss(model, task.batch(np.arange(len(task.labels())), numpy_random(0)))
    assert loss.shape == ()
    loss.backward()
    model.eval()
    with torch.no_grad():
        assert task.evaluate(model) == task.evaluate(model)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_dump_can_be_read_back(name: str) -> None:
    task = tasks.make(name)
    assert tasks.parse(task.model_dump()) == task
    assert tasks.parse(task.model_dump(mode="json")) == task


def test_a_file_of_the_users_is_a_task(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(USER_TASK)
    assert isinstance(tasks.make(str(path), offset=2).model(0), torch.nn.Linear)
    assert tasks.parse({"name": str(path), "offset": 2}).model_dump()["offset"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_that_name", "cannot be imported: ModuleNotFoundError"),
        ("x = 1", "exactly one subclass .* found 0"),
        (USER_TASK + "\nclass Other(Task):\n    pass\n", "found 2"),
    ],
)
def test_a_file_that_is_no_task(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        tasks.make(str(path))
    with pytest.raises(ValueError, match=message):
        tasks.parse(str(path))


def test_missing_file_and_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no task file"):
        tasks.make(str(tmp_path / "none.py"))
    with pytest.raises(ConfigError, match="charlm, convex, digits"):
        tasks.make("mnist")
