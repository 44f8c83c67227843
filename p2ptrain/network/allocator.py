"""glibc's allocator, told what to keep of what is freed.

Setting a node up takes memory that it never needs again, 8 MB to derive a key alone: that goes back to the system. A
swap allocates and frees a mebibyte many times over, here and inside gRPC. By default glibc gives each piece back to the
kernel, and faulting its pages in again costs as much as copying it, a fifth of a swap's CPU time: that is kept.
"""

import ctypes
from contextlib import suppress
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 64 << 20
_MAPPED_FROM_BYTES = 16 << 20


@cache
def keep_freed_memory() -> bool:
    """Once per process; whether there was such an allocator to tell."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))


def give_back_freed_memory() -> None:
    """Of what is free now, once."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
