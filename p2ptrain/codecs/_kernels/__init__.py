"""Compiled loops, one module per family; importing one imports numba and compiles or loads all of it.

Nothing here is imported before a codec needs it, as an idle node cannot spare the memory that numba takes. Without
numba, or for tensors that are not plain float32 on the CPU, codecs do the same arithmetic in torch operations, bit for
bit, some ten times slower.
"""

import importlib
import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor


def compiled(family: str, *tensors: Tensor) -> Any | None:
    """The module of kernels for these tensors, or None if they need torch operations."""
    if all(each.is_cpu and each.dtype == torch.float32 and each.is_contiguous() for each in tensors):
        return load(family)
    return None


@cache
def load(family: str) -> Any | None:
    """The module of kernels `family`, or None where numba does not work. Takes seconds when nothing is cached yet."""
    try:
        return importlib.import_module(f"{__name__}.{family}")
    except ImportError as error:  # also raised by a numba that does not like the numpy it finds
        logging.getLogger(__name__).warning("codecs run without numba, some ten times slower: %s", error)
        return None
