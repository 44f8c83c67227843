"""The simulated parts of a machine: a device that charges virtual seconds, a disk that a crash tears, a directory."""

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import TypeVar

from p2ptrain.errors import ConfigError
from p2ptrain.ports import PeerId

T = TypeVar("T")


class SimulatedCompute:
    """`ports.Compute` of a device that needs `step_s` for a training step, give or take a tenth."""

    def __init__(self, step_s: float, rng: random.Random) -> None:
        self._step_s, self._rng = step_s, rng
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[[], T]) -> T:
        return work()

    async def train(self, work: Callable[[], T]) -> T:
        async with self._turn:
            await asyncio.sleep(self._step_s * self._rng.uniform(0.9, 1.1))
            return work()

    async def aside(self, work: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        return work()


class Crashed(BaseException):
    """Unwinds what a node was doing when its power went."""


class SimulatedDisk:
    """`ports.Disk` that outlives its node. With `tear` set, the power goes in the middle of the next write: what
    is left is the file's beginning, or all of it without the rename that was to follow."""

    def __init__(self, rng: random.Random) -> None:
        self.files: dict[str, bytes] = {}
        self.tear: Callable[[], None] | None = None
        self._rng = rng

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise ConfigError(f"{name} cannot be read: no such file")
        return self.files[name]

    def write(self, name: str, content: bytes) -> None:
        if self.tear is not None:
            crash, self.tear = self.tear, None
            self.files[name] = content[: self._rng.choice([self._rng.randrange(len(content) + 1), len(content)])]
            crash()
            raise Crashed
        self.files[name] = content

    def rename(self, name: str, to: str) -> None:
        self.files[to] = self.files.pop(name)

    def remove(self, name: str) -> None:
        self.files.pop(name, None)


class SimulatedDirectory:
    """`ports.Directory`: one table for the whole world, which keeps the records of the dead until they expire, and
    shows a record `delay_s` after it was published."""

    def __init__(self, now_unix: Callable[[], float], delay_s: float = 0.5) -> None:
        self.broken = False
        self._now_unix, self._delay_s = now_unix, delay_s
        self._records: dict[PeerId, tuple[bytes, float, float]] = {}

    async def publish(self, peer: PeerId, record: bytes, expires_unix_s: float) -> bool:
        if not self.broken:
            self._records[peer] = (record, self._now_unix() + self._delay_s, expires_unix_s)
        return not self.broken

    async def lookup(self) -> list[bytes]:
        now = self._now_unix()
        return [] if self.broken else [signed for signed, begin, end in self._records.values() if begin <= now < end]

    def addresses(self) -> list[str]:
        return []

    def learn(self, addresses: Iterable[str]) -> None: ...

    async def run(self) -> None: ...
