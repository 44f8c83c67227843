"""Go on with a causal language model of Hugging Face's `transformers`, from a folder on this machine.

Nothing is downloaded. Every node needs an equal copy of the folder, and, to evaluate alike, of the text. Needs the
extra `finetune`.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from p2ptrain.errors import ConfigError
from p2ptrain.training.starts import needed
from p2ptrain.training.tasks import Batch, Metrics, Task, device_of, register
from p2ptrain.training.text import read

HELD_OUT = 10
"""Every so manieth block is held out."""
EVALUATED_TOKENS = 4096
REGIONS = 16


class Causal(nn.Module):
    """(batch, time) tokens as int64 -> (batch, time, vocabulary) logits of the token that follows each."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(input_ids=tokens, use_cache=False).logits


@register("hf-causal")
class HfCausal(Task):
    """Loss is in nats per token; accuracy is the share of tokens guessed right."""

    optimizer: str = "AdamW"
    lr: float = Field(default=1e-4, gt=0)
    batch_size: int = Field(default=4, gt=0)
    """Windows per step."""
    folder: Path
    """With `config.json` and weights as `save_pretrained` leaves them. Without a tokenizer in it, bytes are tokens."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of weights that are not trained; those that are, are always fp32."""
    context: int = Field(default=128, ge=8, le=8192)
    """Tokens the model sees."""
    text: Path | None = None
    """A file or a folder of text; default: the Python standard library's sources."""
    max_bytes: int = Field(default=1 << 20, gt=0)
    """How much of it is read."""

    def model(self, seed: int) -> nn.Module:
        transformers = needed("transformers", "task hf-causal")
        dtype = torch.bfloat16 if self.dtype == "bf16" else torch.float32
        try:
            found = transformers.AutoModelForCausalLM.from_pretrained(self.folder, local_files_only=True, dtype=dtype)
        except (OSError, ValueError) as error:
            raise ConfigError(f"folder: {self.folder}: {str(error).splitlines()[0]}") from None
        return Causal(found.eval())

    def labels(self) -> np.ndarray:
        blocks = self._blocks()[0]
        return np.arange(len(blocks), dtype=np.int64) * REGIONS // len(blocks)

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> Batch:
        return self._windows(self._blocks()[0][rng.choice(examples, self.batch_size)])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        return functional.cross_entropy(model(inputs).float().flatten(0, 1), targets.flatten())

    def evaluate(self, model: nn.Module) -> Metrics:
        blocks = self._blocks()[1][: max(1, EVALUATED_TOKENS // self.context)]
        device, losses, hits = device_of(model), 0.0, 0
        for part in np.array_split(blocks, math.ceil(len(blocks) / 8)):
            inputs, targets = (tensor.to(device) for tensor in self._windows(part))
            logits = model(inputs).float()
            losses += functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
            hits += int((logits.argmax(-1) == targets).sum())
        return Metrics(losses / (len(blocks) * self.context), hits / (len(blocks) * self.context))

    def _windows(self, starts: np.ndarray) -> Batch:
        """Inputs and targets, (len(starts), context) int64 each; the targets are one token later."""
        tokens = _tokens(self.folder, self.text, self.max_bytes)
        windows = torch.from_numpy(tokens[starts[:, None] + np.arange(self.context + 1)])
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def _blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """Where windows for training, and those held out, begin. Raises `ConfigError`."""
        count = (len(_tokens(self.folder, self.text, self.max_bytes)) - 1) // self.context
        if count < 2 * HELD_OUT:
            raise ConfigError(f"text: {count} windows of {self.context} tokens are too few; give more, or less context")
        starts = np.arange(count, dtype=np.int64) * self.context
        held_out = np.arange(count) % HELD_OUT == HELD_OUT - 1
        return starts[~held_out], starts[held_out]


@lru_cache(maxsize=2)
def _tokens(folder: Path, text: Path | None, max_bytes: int) -> np.ndarray:
    """(n,) int64."""
    content = read(text, max_bytes)
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        return content.astype(np.int64)
    transformers = needed("transformers", "task hf-causal")
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return np.array(tokenizer(content.tobytes().decode("utf-8", "replace"), verbose=False)["input_ids"], dtype=np.int64)
