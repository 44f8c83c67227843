"""What a run starts with: weights of an earlier run, adapters, or an error that says what is missing."""

import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from p2ptrain.errors import ConfigError
from p2ptrain.training import tasks
from p2ptrain.training.replica import Replica
from p2ptrain.training.starts import frozen_digest
from p2ptrain.training.tasks.digits import Digits


@pytest.mark.parametrize("network", ["mlp", "cnn"])  # one with buffers
def test_a_run_goes_on_from_the_weights_of_another(network: str, tmp_path: Path) -> None:
    task = Digits.model_validate({"network": network, "hidden": 8})
    earlier = Replica(task.start(1))
    earlier.flat.add_(0.5)
    earlier.publish()
    file = tmp_path / "final.safetensors"
    file.write_bytes(safetensors.torch.save({"flat": earlier.snapshot()}))
    later = task.model_copy(update={"weights": file})
    assert Replica(later.start(2)).digest() == earlier.digest() != Replica(task.start(2)).digest()
    assert tasks.parse(later.model_dump(mode="json")) == later


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no file at"),
        (b"not this", "is no final.safetensors"),
        (safetensors.torch.save({"other": torch.zeros(3)}), "is no final.safetensors"),
        (safetensors.torch.save({"flat": torch.zeros(3)}), "holds 3 numbers, and this model has 610"),
    ],
)
def test_other_weights_are_refused_in_words(content: bytes | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "final.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"weights: .*{words}"):
        Digits(hidden=8, weights=file).start(0)


@pytest.mark.parametrize(
    ("module", "task"),
    [("peft", {"name": "digits", "lora": {"rank": 2}}), ("transformers", {"name": "hf-causal", "folder": "nowhere"})],
)
def test_without_the_extra_the_error_names_it(
    module: str, task: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"needs {module}: pip install 'p2ptrain\[finetune\]'"):
        tasks.parse(task).start(0)


def test_what_is_frozen_is_told_by_its_bytes() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)).to(torch.bfloat16)
    assert frozen_digest(module) == b""
    module[0].requires_grad_(False)
    before = frozen_digest(module)
    with torch.no_grad():
        module[1].weight.add_(1.0)
    assert frozen_digest(module) == before
    with torch.no_grad():
        module[0].bias.add_(1.0)
    assert frozen_digest(module) != before
