"""What a run starts with, where that is not an untrained model: weights of an earlier run, and adapters beside them."""

import hashlib
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from p2ptrain.errors import ConfigError
from p2ptrain.seeds import derive
from p2ptrain.training.replica import named_tensors

EXTRA = "pip install 'p2ptrain[finetune]'"


class Lora(BaseModel):
    """Low-rank adapters (arXiv 2106.09685): the only thing that is trained then; everything else is frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(8, gt=0, le=1024)
    alpha: float = Field(16.0, gt=0)
    on: str = "all-linear"
    """Beside which layers: a regular expression for whole names, `.*(query_key_value|mlp_in)`, or `all-linear`."""


def load(module: nn.Module, path: Path) -> None:
    """Fill it from a `final.safetensors`: one vector, named `flat`, of all that nodes of that run had in common. Raises
    `ConfigError`."""
    try:
        vector = safetensors.torch.load_file(path)["flat"]
    except FileNotFoundError:
        raise ConfigError(f"weights: no file at {path}") from None
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise ConfigError(f"weights: {path} is no final.safetensors of a run: {error}") from None
    tensors = [tensor for _, tensor in named_tensors(module)]
    size = sum(tensor.numel() for tensor in tensors)
    if vector.shape != (size,):
        raise ConfigError(f"weights: {path} holds {vector.numel()} numbers, and this model has {size}")
    with torch.no_grad():
        for tensor, part in zip(tensors, vector.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def add_lora(module: nn.Module, lora: Lora, seed: int) -> None:
    """In place; the adapters' first weights follow from the seed. Raises `ConfigError`."""
    peft = needed("peft", "lora")
    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "lora"))
        try:
            on = layers if lora.on == "all-linear" else lora.on
            config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=on)
            peft.inject_adapter_in_model(config, module)
        except ValueError as error:
            names = ", ".join(layers[:8])
            raise ConfigError(f"lora.on: {lora.on!r}: {str(error).splitlines()[0]}; layers are {names}, ...") from None
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("lora_" in name)


def needed(module: str, what: str) -> Any:
    """A module of the extra `finetune`. Raises `ConfigError`."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{what} needs {error.name or module}: {EXTRA}") from None


def frozen_digest(module: nn.Module) -> bytes:
    """SHA-256 of the parameters that are not trained, which nodes do not exchange and must have all the same; nothing
    if there are none."""
    digest = hashlib.sha256()
    frozen = [(name, each) for name, each in module.named_parameters() if not each.requires_grad]
    for name, parameter in frozen:
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        digest.update(_bytes(parameter))
    return digest.digest() if frozen else b""


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
