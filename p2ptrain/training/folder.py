"""The real disk: one folder. What was written and renamed there survives a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2ptrain.errors import ConfigError


class Folder:
    """`ports.Disk` on a file system. The folder is made when something is first written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return f"{self._path}{os.sep}"

    def names(self) -> list[str]:
        with self._explained("read"):
            return sorted(path.name for path in self._path.iterdir()) if self._path.exists() else []

    def read(self, name: str) -> bytes:
        with self._explained("read"):
            return (self._path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        with self._explained("written"):
            self._path.mkdir(parents=True, exist_ok=True)
            with (self._path / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

    def rename(self, name: str, to: str) -> None:
        with self._explained("written"):
            (self._path / name).replace(self._path / to)
            self._sync()

    def remove(self, name: str) -> None:
        with self._explained("written"):
            (self._path / name).unlink(missing_ok=True)

    def _sync(self) -> None:
        """Force the folder's list of files to the disk."""
        if os.name == "nt":
            return  # Windows has no such call
        handle = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be {what}: {error.strerror or error}") from error
