"""Text as one array of bytes: from a file, from a folder, or the Python standard library's own sources."""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from p2ptrain.errors import ConfigError

_NOT_PROSE = {
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "encodings",
    "pydoc_data",
}
"""Folders of the standard library that are absent on some machines, or tables rather than programs."""


def read(source: Path | None, max_bytes: int) -> np.ndarray:
    """(n,) uint8, n <= max_bytes, read-only: the files in order of their paths.

    Raises `ConfigError` when there is nothing to read."""
    root = Path(sysconfig.get_paths()["stdlib"]) if source is None else source
    pattern = ".py" if source is None else ""
    try:
        text = _concatenate(_files(root, pattern), max_bytes)
    except OSError as error:
        raise ConfigError(f"text: cannot read {error.filename or root}: {error.strerror}") from None
    if len(text) == 0:
        hint = "; name a file or folder of text" if source is None else ""
        raise ConfigError(f"text: nothing to read at {root}{hint}")
    return text


def _files(root: Path, ending: str) -> Iterator[Path]:
    """`root` itself if it is a file, else the visible files below it, folder by folder in order."""
    if not root.is_dir():
        yield root
        return
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith(".") and (not ending or name not in _NOT_PROSE))
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(ending) and not name.startswith("."))


def _concatenate(files: Iterator[Path], max_bytes: int) -> np.ndarray:
    found = list(files)
    size = min(max_bytes, sum(path.stat().st_size for path in found))
    text = bytearray(size)  # read into its place: neither pieces nor a second copy
    length = 0
    for path in found:
        with path.open("rb", buffering=0) as file:
            while length < size and (got := file.readinto(memoryview(text)[length:])):
                length += got
        if length == size:
            break
    content = np.frombuffer(text, np.uint8, length)
    content.flags.writeable = False
    return content
