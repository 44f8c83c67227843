"""The compiled loop behind the Gram matrix, three times as fast as the library's product of such narrow matrices.

Nothing here is imported before a rule needs it, as an idle node cannot spare the memory that numba takes.
"""

import importlib
import logging
from functools import cache
from typing import Any


@cache
def load() -> Any | None:
    """The module of kernels, or None where numba does not work. Takes seconds when nothing is cached yet."""
    try:
        return importlib.import_module(f"{__name__}.gram")
    except ImportError as error:  # also raised by a numba that does not like the numpy it finds
        logging.getLogger(__name__).warning("robust rules run without numba, some two times slower: %s", error)
        return None
