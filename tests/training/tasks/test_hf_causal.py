"""What the task puts around a Hugging Face model: the model itself needs the extra, which the tests do without."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from p2ptrain.errors import ConfigError
from p2ptrain.training.tasks.hf_causal import HfCausal


class Guess(nn.Module):
    """Each token predicts itself."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return 9.0 * nn.functional.one_hot(tokens, 256).float()

    def parameters(self, recurse: bool = True):
        yield nn.Parameter(torch.zeros(1))


def task(tmp_path: Path, text: str = "ab" * 4000, **options: object) -> HfCausal:
    file = tmp_path / f"{len(set(text))}-letters"
    file.write_text(text)
    return HfCausal.model_validate({"folder": tmp_path, "text": file, "context": 16, **options})


def test_windows_are_those_of_the_text_and_some_are_held_out(tmp_path: Path) -> None:
    mine = task(tmp_path, "".join(map(chr, range(32, 112))) * 100)
    inputs, targets = mine.batch(np.arange(len(mine.labels())), np.random.default_rng(0))
    assert inputs.shape == targets.shape == (4, 16)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    blocks, held_out = mine._blocks()
    assert len(blocks) == pytest.approx(9 * len(held_out), rel=0.1)
    assert not set(blocks) & set(held_out)


def test_loss_and_accuracy_are_per_token(tmp_path: Path) -> None:
    same, other = task(tmp_path, "a" * 8000), task(tmp_path, "ab" * 4000)
    assert same.evaluate(Guess()).accuracy == 1.0
    assert other.evaluate(Guess()).accuracy == 0.0
    assert other.evaluate(Guess()).loss == pytest.approx(9.0, abs=0.1)


def test_too_little_text_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="windows of 16 tokens are too few"):
        task(tmp_path, "a" * 100).labels()
