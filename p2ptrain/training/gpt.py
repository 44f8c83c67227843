"""A small decoder-only transformer over bytes, with a tied embedding.

Pre-norm: arXiv 2002.04745; rotary positions: arXiv 2104.09864.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 256


class GPT(nn.Module):
    """(batch, time) bytes as int64 -> (batch, time, 256) logits of the byte that follows each."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.previous = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.rotary_width = width // heads
        # The tied head makes a byte predict itself; at these scales the first loss is still near ln 256 = 5.545.
        nn.init.constant_(self.norm.weight, 0.2)
        for embedding in (self.embedding, self.previous):
            nn.init.normal_(embedding.weight, std=3.2 / width)

    def forward(self, text: Tensor) -> Tensor:
        # Each position also sees the byte before it: pairs of bytes are then learned in tens of steps, not hundreds.
        x = self.embedding(text) + functional.pad(self.previous(text[:, :-1]), (0, 0, 1, 0))
        rotation = _rotation(text.shape[1], self.rotary_width, text.device)
        for block in self.blocks:
            x = block(x, rotation)
        return functional.linear(self.norm(x), self.embedding.weight)


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width, bias=False)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.norm_mlp = nn.LayerNorm(width, bias=False)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)
        for layer in (self.query_key_value, self.mlp_in):
            nn.init.normal_(layer.weight, std=width**-0.5)
        # With zero outputs every block starts as the identity.
        for layer in (self.attention_out, self.mlp_out):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        x = x + self.attention_out(self._attend(self.norm_attention(x), rotation))
        return x + self.mlp_out(functional.gelu(self.mlp_in(self.norm_mlp(x)), approximate="tanh"))

    def _attend(self, x: Tensor, rotation: Tensor) -> Tensor:
        batch, time, width = x.shape
        qkv = self.query_key_value(x).view(batch, time, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, head width)
        query, key = _rotate(query, rotation), _rotate(key, rotation)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return mixed.transpose(1, 2).reshape(batch, time, width)


@lru_cache(maxsize=8)
def _rotation(time: int, head_width: int, device: torch.device) -> Tensor:
    """(2, time, head width): cosines, and sines with the sign of the half they belong to.

    Kept outside the module: a buffer would be exchanged with the peers."""
    frequency = 10_000.0 ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angle = torch.arange(time, dtype=torch.float32)[:, None] * frequency
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([torch.cat([cosine, cosine], 1), torch.cat([-sine, sine], 1)]).to(device)


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn pairs (x[i], x[i + width/2]) by the angle of their position."""
    cosine, sine = rotation.to(x.dtype)
    half = x.shape[-1] // 2
    return x * cosine + x.roll(half, -1) * sine
