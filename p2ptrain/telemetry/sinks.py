"""Where events go: JSON lines in a file or on standard output, several places at once; and the way back from a file."""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

from p2ptrain.errors import ConfigError
from p2ptrain.telemetry.events import Event, Stamped, from_json, to_json
from p2ptrain.telemetry.state import SwarmState, fold

MAX_WAITING = 100_000
CLOSE_TIMEOUT_S = 5.0


class Output(Protocol):
    """Takes stamped events; never blocks, never raises. Events after `close` are dropped."""

    def write(self, stamped: Stamped) -> None: ...

    def close(self) -> None: ...


class Lines:
    """JSON lines, written by a thread of its own so that a slow disk or a full pipe holds nobody up.

    After the first error nothing more is written: `num_lost` counts what did not arrive.
    """

    def __init__(self, target: IO[str], flush_every_s: float = 1.0, *, owned: bool = False) -> None:
        self.num_lost = 0
        self.error: OSError | None = None
        self._target = target
        self._owned = owned
        self._flush_every_s = flush_every_s
        self._waiting: deque[Stamped] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="event-lines", daemon=True)
        self._thread.start()

    def write(self, stamped: Stamped) -> None:
        if self.error or self._closing.is_set() or len(self._waiting) >= MAX_WAITING:
            self.num_lost += 1
        else:
            self._waiting.append(stamped)

    def close(self) -> None:
        """Write what waits, for a bounded time."""
        self._closing.set()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(self._flush_every_s)
            self._drain()
        if self._owned:
            try:
                self._target.close()
            except OSError as error:
                self.error = error

    def _drain(self) -> None:
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not batch:
            return
        if self.error is None:
            try:
                self._target.write("".join(f"{to_json(stamped)}\n" for stamped in batch))
                self._target.flush()
                return
            except (OSError, ValueError) as error:  # ValueError: the file was closed under us
                self.error = error if isinstance(error, OSError) else OSError(str(error))
        self.num_lost += len(batch)


def to_file(path: Path) -> Lines:
    """Appends to `path`. Raises `ConfigError` when it cannot be opened: the one moment when somebody listens."""
    try:
        return Lines(path.open("a", encoding="utf-8"), owned=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def to_stdout() -> Lines:
    """For a launcher or a pipe: soon, rather than once a second."""
    return Lines(sys.stdout, flush_every_s=0.1)


class FanOut:
    """Several outputs as one."""

    def __init__(self, outputs: Sequence[Output]) -> None:
        self._outputs = tuple(outputs)

    def write(self, stamped: Stamped) -> None:
        for output in self._outputs:
            output.write(stamped)

    def close(self) -> None:
        for output in self._outputs:
            output.close()


class Stamp:
    """The `Sink` port of one node: says where and when, and passes on.

    `epoch_unix_s` is the moment from which times count, the same for all nodes of a launcher. The wall clock is read
    once, so that setting it during a run bends no curve.
    """

    def __init__(self, node: str, epoch_unix_s: float, output: Output) -> None:
        self._node = node
        self._output = output
        self._offset = time.time() - epoch_unix_s - time.monotonic()

    def emit(self, event: Event) -> None:
        self._output.write(Stamped(self._node, time.monotonic() + self._offset, event))


def parse(lines: Iterable[str], where: str) -> Iterator[Stamped]:
    """The events of a log. A last line that was cut off (a crash, a run still going on) is left out."""
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                yield from_json(line)
        except ValueError:
            if line.endswith("\n"):
                raise ConfigError(f"{where}:{number}: not an event of p2ptrain") from None


def read(path: Path) -> SwarmState:
    """Fold a file of events."""
    try:
        with path.open(encoding="utf-8") as file:
            return fold(parse(file, str(path)))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
