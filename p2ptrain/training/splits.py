"""Which training examples are whose.

Every node cuts out its own part alone; the parts of all slots are disjoint and cover the data.
"""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from p2ptrain.errors import ConfigError
from p2ptrain.seeds import numpy_random


class Data(BaseModel):
    """How the training data is divided among the nodes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["iid", "dirichlet", "by-label"] = "iid"
    """`by-label` gives each node a run of the labels in order: of 10 nodes and 10 classes each sees about one."""
    alpha: float = Field(default=0.5, gt=0)
    """Of `dirichlet`: small values give each node few labels, large ones come near `iid` (arXiv 1909.06335)."""
    shards: int | None = Field(default=None, gt=0)
    """How many parts; None: as many as there are nodes."""


def examples(labels: np.ndarray, data: Data, shards: int, slot: int, seed: int) -> np.ndarray:
    """Sorted int64 indices into `labels` (n,) of one slot's part; slots beyond the shards start over.

    Raises `ConfigError` when there are fewer examples than shards."""
    if len(labels) < shards:
        raise ConfigError(
            f"data.shards: {shards} parts of {len(labels)} examples would leave some empty; use fewer nodes or shards"
        )
    rng = numpy_random(seed, "split")
    shuffled = rng.permutation(len(labels))
    if data.split == "iid":
        part = np.array_split(shuffled, shards)[slot % shards]
    elif data.split == "by-label":
        by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
        part = np.array_split(by_label, shards)[slot % shards]
    else:
        owners = _dirichlet_owners(labels, shuffled, data.alpha, shards, rng)
        part = np.flatnonzero(owners == slot % shards)
    return np.sort(part)


def _dirichlet_owners(
    labels: np.ndarray, shuffled: np.ndarray, alpha: float, shards: int, rng: np.random.Generator
) -> np.ndarray:
    """(n,) the shard of each example: each label is dealt out in proportions drawn from Dir(alpha)."""
    owners = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        proportions = rng.dirichlet(np.full(shards, alpha))
        ends = np.rint(np.cumsum(proportions) * len(members)).astype(np.int64)
        ends[-1] = len(members)
        owners[members] = np.searchsorted(ends, np.arange(len(members)), side="right")
    _fill_small(owners, shards, shuffled)
    return owners


def _fill_small(owners: np.ndarray, shards: int, shuffled: np.ndarray) -> None:
    """Give every shard a tenth of a fair share and at least one example, at the expense of the largest, in place."""
    least = max(1, len(owners) // (10 * shards))
    sizes = np.bincount(owners, minlength=shards)
    for shard in range(shards):
        while sizes[shard] < least:
            largest = int(sizes.argmax())
            surplus = min(least - sizes[shard], max(1, (sizes[largest] - least) // 2))
            moved = shuffled[owners[shuffled] == largest][:surplus]
            owners[moved] = shard
            sizes[largest] -= len(moved)
            sizes[shard] += len(moved)
