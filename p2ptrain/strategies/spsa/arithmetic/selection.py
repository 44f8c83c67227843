"""Which parameters take part: ranges of a module's flat vector, in its order. The others stay as they are."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from p2ptrain.errors import ConfigError
from p2ptrain.training.replica import named_slices


@dataclass(frozen=True)
class Selection:
    """Ranges of a flat vector, none empty, in ascending order. The selected vector is what they hold, in that order."""

    ranges: tuple[slice, ...]

    def __post_init__(self) -> None:
        end = 0
        for where in self.ranges:
            if not (where.step in (None, 1) and end <= where.start < where.stop):
                raise ValueError(f"not an ascending range of the flat vector: {where}")
            end = where.stop

    @property
    def size(self) -> int:
        return sum(where.stop - where.start for where in self.ranges)

    def gather(self, flat: Tensor) -> Tensor:
        """(size,) a copy of what is selected."""
        return torch.cat([flat[where] for where in self.ranges])

    def pick(self, flat: Tensor) -> Tensor:
        """(size,) the same without a copy, where what is selected is one range."""
        return flat[self.ranges[0]] if len(self.ranges) == 1 else self.gather(flat)

    def scatter(self, selected: Tensor, flat: Tensor) -> None:
        """Put (size,) values where they belong."""
        at = 0
        for where in self.ranges:
            width = where.stop - where.start
            flat[where] = selected[at : at + width]
            at += width


def of_indices(indices: Iterable[int]) -> Selection:
    """Any single elements."""
    ranges: list[slice] = []
    for index in sorted(set(indices)):
        if ranges and ranges[-1].stop == index:
            ranges[-1] = slice(ranges[-1].start, index + 1)
        else:
            ranges.append(slice(index, index + 1))
    return Selection(tuple(ranges))


def of_parameters(module: nn.Module, pattern: str = "") -> Selection:
    r"""The trainable parameters in whose names the regular expression is found: `bias$`, `^(head|norm)\.`, or all.

    Raises `ConfigError` with the names when there is none. Buffers never take part: nobody measures along them."""
    trainable = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    found = [(name, where) for name, where in named_slices(module) if name in trainable]
    try:
        chosen = [where for name, where in found if re.search(pattern, name)]
    except re.error as error:
        raise ConfigError(f"parameters: {pattern!r} is not a regular expression: {error}") from None
    if not chosen:
        raise ConfigError(f"parameters: {pattern!r} is in none of {', '.join(name for name, _ in found)}")
    return Selection(_joined(chosen))


def _joined(ranges: list[slice]) -> tuple[slice, ...]:
    out: list[slice] = []
    for where in ranges:
        if out and out[-1].stop == where.start:
            out[-1] = slice(out[-1].start, where.stop)
        else:
            out.append(where)
    return tuple(out)
