"""Predict the next byte of a text with a small transformer.

Without a text of one's own, it reads the sources of the Python standard library.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from p2ptrain.errors import ConfigError
from p2ptrain.training.gpt import GPT, VOCABULARY
from p2ptrain.training.tasks import Batch, Metrics, Task, device_of, initialising, register
from p2ptrain.training.text import read

BLOCK = 2048
"""Bytes of one training example; windows of the context's length are drawn inside."""
HELD_OUT_UNIT = 64 * 1024
"""Every tenth stretch of this many bytes (less if the text is short) is held out."""
REGIONS = 16
"""Labels: which sixteenth of the text a block lies in."""
EVALUATED_BYTES = 4096


class Preset(NamedTuple):
    width: int
    layers: int
    heads: int
    context: int
    lr: float


PRESETS: dict[str, Preset] = {
    "0.2M": Preset(80, 2, 2, 64, 3e-3),
    "1M": Preset(160, 3, 5, 128, 2e-3),
    "3M": Preset(256, 4, 4, 128, 1.5e-3),
    "10M": Preset(384, 6, 6, 256, 1e-3),
    "25M": Preset(512, 8, 8, 256, 6e-4),
}


@register("charlm")
class CharLM(Task):
    """Loss is in nats per byte: ln 256 = 5.55 untrained; accuracy is the share of bytes guessed right."""

    optimizer: str = "AdamW"
    lr: float = Field(default=3e-3, gt=0)
    """Default: by size."""
    batch_size: int = Field(default=8, gt=0)
    """Windows per step."""
    warmup_steps: int = Field(default=20, ge=0)
    size: Literal["0.2M", "1M", "3M", "10M", "25M"] = "0.2M"
    """Number of parameters."""
    context: int = Field(default=64, ge=8, le=1024)
    """Bytes the model sees. Default: by size."""
    text: Path | None = None
    """A file or a folder of text. Nodes that are to evaluate alike need equal copies."""
    max_bytes: int = Field(default=4 << 20, gt=0)
    """How much of it is read."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_by_size(cls, value: Any) -> Any:
        preset = PRESETS.get(value.get("size", "0.2M")) if isinstance(value, dict) else None
        return value if preset is None else {"context": preset.context, "lr": preset.lr, **value}

    def model(self, seed: int) -> nn.Module:
        preset = PRESETS[self.size]
        with initialising(seed):
            return GPT(preset.width, preset.layers, preset.heads)

    def labels(self) -> np.ndarray:
        num_blocks = len(self._corpus().blocks)
        return np.arange(num_blocks, dtype=np.int64) * REGIONS // num_blocks

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> Batch:
        blocks = self._corpus().blocks[rng.choice(examples, self.batch_size)]
        return _windows(self._text(), blocks + rng.integers(0, BLOCK - self.context, self.batch_size), self.context)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        return functional.cross_entropy(model(inputs).float().view(-1, VOCABULARY), targets.view(-1))

    def evaluate(self, model: nn.Module) -> Metrics:
        offsets = np.arange(0, BLOCK - self.context, self.context)
        starts = (self._corpus().held_out[:, None] + offsets).ravel()
        num_windows = min(len(starts), EVALUATED_BYTES // self.context)
        starts = starts[np.linspace(0, len(starts) - 1, num_windows).astype(np.int64)]
        device, losses, hits = device_of(model), 0.0, 0
        for part in np.array_split(starts, math.ceil(num_windows / 32)):
            inputs, targets = (tensor.to(device) for tensor in _windows(self._text(), part, self.context))
            logits = model(inputs).float()
            losses += functional.cross_entropy(logits.view(-1, VOCABULARY), targets.view(-1), reduction="sum").item()
            hits += int((logits.argmax(-1) == targets).sum())
        num_bytes = num_windows * self.context
        return Metrics(losses / num_bytes, hits / num_bytes)

    def _corpus(self) -> "Corpus":
        return _cut(self.text, self.max_bytes)

    def _text(self) -> np.ndarray:
        return _kept(self.text, self.max_bytes)


class Corpus(NamedTuple):
    """Where the blocks of a text begin."""

    blocks: np.ndarray
    """(m,) int64, for training."""
    held_out: np.ndarray
    """(k,) int64."""


_kept = lru_cache(maxsize=4)(read)
"""The text itself, from the first batch on: a node that waits knows its blocks and does without."""


@lru_cache(maxsize=4)
def _cut(source: Path | None, max_bytes: int) -> Corpus:
    """Raises `ConfigError` if the text is missing or too short."""
    content = read(source, max_bytes)
    starts = np.arange(len(content) // BLOCK, dtype=np.int64) * BLOCK
    if len(starts) < 10:
        raise ConfigError(f"text: {len(content)} bytes are too few; give at least {10 * BLOCK}")
    blocks_per_unit = min(HELD_OUT_UNIT // BLOCK, len(starts) // 10)
    held_out = np.arange(len(starts)) // blocks_per_unit % 10 == 9
    return Corpus(starts[~held_out], starts[held_out])


def _windows(content: np.ndarray, starts: np.ndarray, context: int) -> Batch:
    """Inputs and targets, (len(starts), context) int64 each; the targets are one byte later."""
    bytes_ = torch.from_numpy(content[starts[:, None] + np.arange(context + 1)].astype(np.int64))
    return bytes_[:, :-1].contiguous(), bytes_[:, 1:].contiguous()
