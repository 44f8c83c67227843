"""A node whose power goes at any of its first disk operations, and once more while it comes back, ends with the bits of
the others."""

import asyncio
import random
from collections.abc import Callable
from functools import partial

import pytest
from test_onebyte import digests, of, topology

from p2ptrain.seeds import python_random
from p2ptrain.simulation.loop import run
from p2ptrain.simulation.machine import Crashed, SimulatedDisk
from p2ptrain.simulation.world import World
from p2ptrain.telemetry.events import Died, Rejected, Stamped

VICTIM = "node-1"
AWAY_S = 0.7
AT_ONCE = 12
OPERATIONS = 36


class Power:
    """It goes at these operations, each counted from when it was last there."""

    def __init__(self, *at: int) -> None:
        self.gone = asyncio.Event()
        self.operations = 0
        self._at = list(at)

    def holds(self) -> bool:
        self.operations += 1
        if not self._at or self.operations < self._at[0]:
            return True
        self.operations = 0
        del self._at[0]
        return False


class Fragile(SimulatedDisk):
    """Of a write, any part is left; a rename or a removal has been done, or not."""

    def __init__(self, rng: random.Random, power: Power, cut: Callable[[], None]) -> None:
        super().__init__(rng)
        self._dice, self._power, self._cut = rng, power, cut

    def write(self, name: str, content: bytes) -> None:
        if not self._power.holds():
            self.tear = self._cut
        super().write(name, content)

    def rename(self, name: str, to: str) -> None:
        self._all_or_nothing(partial(super().rename, name, to))

    def remove(self, name: str) -> None:
        self._all_or_nothing(partial(super().remove, name))

    def _all_or_nothing(self, deed: Callable[[], None]) -> None:
        if self._power.holds():
            deed()
            return
        if self._dice.random() < 0.5:
            deed()
        self._cut()
        raise Crashed


def live(*at: int) -> list[Stamped]:
    log: list[Stamped] = []

    async def main() -> None:
        world, power = World(topology(count=3, steps=60), log.append), Power(*at)

        def cut() -> None:
            world.crash(VICTIM)
            power.gone.set()

        async def restore() -> None:
            while True:
                await power.gone.wait()
                power.gone.clear()
                await asyncio.sleep(AWAY_S)
                await world.start(VICTIM)

        node = world.nodes[VICTIM]
        node.home, node.checkpoints = (Fragile(python_random(0, "power", *at, part), power, cut) for part in range(2))
        restoring = asyncio.ensure_future(restore())
        await world.run(3600.0)
        restoring.cancel()

    run(main())
    return log


@pytest.mark.parametrize("first", range(1, OPERATIONS + 1, AT_ONCE))
def test_whenever_the_power_goes_the_bits_are_the_others(first: int) -> None:
    for operation in range(first, first + AT_ONCE):
        log = live(operation, 1 + operation % 5)
        assert len(of(log, Died)) == 2, operation
        ends = digests(log)
        assert len(ends) == 3, operation
        assert len(set(ends.values())) == 1, operation
        assert not of(log, Rejected), operation
