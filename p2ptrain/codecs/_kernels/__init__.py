"""Compiled loops, one module per family; importing one imports numba and compiles or loads all of it.

Nothing here is imported before a codec needs it: numba takes a second and 118 MB. Without it, and for tensors that are
not plain float32 on the CPU, codecs do the same arithmetic in torch operations, bit for bit, some ten times slower. So
they do for small vectors, where that is a millisecond, in a process that has not loaded the kernels anyway.
"""

import importlib
import logging
import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor

SMALL = 1 << 16
"""Elements: so many are worth loading the kernels."""


def compiled(family: str, size: float, *tensors: Tensor) -> Any | None:
    """The module of kernels for vectors of so many elements, such as these; None if torch operations are to do it."""
    if not all(each.is_cpu and each.dtype == torch.float32 and each.is_contiguous() for each in tensors):
        return None
    return load(family) if size >= SMALL or f"{__name__}.{family}" in sys.modules else None


@cache
def load(family: str) -> Any | None:
    """The module of kernels `family`, or None where numba does not work. Takes seconds when nothing is cached yet."""
    try:
        return importlib.import_module(f"{__name__}.{family}")
    except ImportError as error:  # also raised by a numba that does not like the numpy it finds
        logging.getLogger(__name__).warning("codecs run without numba, some ten times slower: %s", error)
        return None
