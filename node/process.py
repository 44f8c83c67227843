"""One daemon as a process of this machine: its pipes, its signals, its end.

Each daemon leads a process group, so that what befalls it befalls its helpers (`p2pd`) too.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

MAX_LINE = 1 << 20
LAST_WORDS_S = 5.0
"""From the end of a process to the end of what it said; a helper may hold the pipe."""


class Process:
    """`launch` one. `take` is called with each line that it prints."""

    def __init__(self, process: asyncio.subprocess.Process, leash: int, events: int, take: Callable[[bytes], None]):
        self._process = process
        self._leash = leash
        """The writing end of its standard input: closing it tells the node to go."""
        self._waker: asyncio.subprocess.Process | None = None
        self.reader = asyncio.create_task(_read(events, take))
        """Fails when `take` does."""
        self.asked = False
        """It was told to end, so its end is no surprise."""

    @classmethod
    async def launch(cls, command: Sequence[str], env: dict[str, str], log: Path, take: Callable[[bytes], None]):
        # Own pipes rather than subprocess.PIPE: asyncio's `wait` would also wait for helpers that hold an end of them.
        stdin, leash = os.pipe()
        events, stdout = os.pipe()
        try:
            with log.open("ab") as stderr:
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True, env=env
                )
        except BaseException:
            os.close(leash)
            os.close(events)
            raise
        finally:
            os.close(stdin)
            os.close(stdout)
        return cls(process, leash, events, take)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """Until it has ended, its helpers too, and all it said was taken; its exit code. To be called once."""
        code = await self._process.wait()
        _signal_group(self.pid, signal.SIGKILL)  # helpers that outlived their daemon
        os.close(self._leash)
        await self.resume()
        done, late = await asyncio.wait([self.reader], timeout=LAST_WORDS_S)
        for task in late:
            task.cancel()
        for task in done:
            task.result()
        return code

    def ask_to_leave(self) -> None:
        if self.runs:
            self.asked = True
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """As a power cut."""
        if self.runs:
            self.asked = True
            _signal_group(self.pid, signal.SIGKILL)

    def order(self, words: str) -> None:
        """See `node.leash`."""
        if self.runs:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._leash, f"{words}\n".encode())

    async def pause(self) -> None:
        """Stand still, until `resume` or until this process here is gone: one that is stopped feels no leash."""
        if self.runs and self._waker is None:
            nowhere, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
            wake = f"cat; kill -s CONT -- -{self.pid}"
            self._waker = await asyncio.create_subprocess_exec(
                "sh", "-c", wake, stdin=pipe, stdout=nowhere, stderr=nowhere, start_new_session=True
            )
            if self.runs:
                _signal_group(self.pid, signal.SIGSTOP)
            else:
                await self.resume()

    async def resume(self) -> None:
        waker, self._waker = self._waker, None
        if waker:
            _signal_group(self.pid, signal.SIGCONT)
            await waker.communicate(b"")  # the end of its input


async def _read(events: int, take: Callable[[bytes], None]) -> None:
    reader = asyncio.StreamReader(limit=MAX_LINE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(events, "rb")
    )
    try:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # longer than MAX_LINE: the reader has thrown it away
                continue
            if not line:
                return
            take(line)
    finally:
        transport.close()


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: a group of which only zombies are left
        os.killpg(pid, number)
