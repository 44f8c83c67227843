"""Whole swarms under faults: real daemons whose links, clocks, disks and processes fail, and then do not."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest
from watched import START_S, UNTRAINED, Watched, topology

from p2ptrain.telemetry.events import Died, Evaluated, Exchanged, Left, Noted, Resumed, Saved, Started
from p2ptrain.topology.links import Link, Pair

pytestmark = pytest.mark.timeout(400)  # every wait has a shorter one of its own

ONE, TWO, THREE = NAMES = ("node-0", "node-1", "node-2")
NEAR = {"default": {"latency": "1ms"}}
HEAL_S = 60.0
"""Connections, candidates and doors are tried again ever more seldom, but not as seldom as that."""


def both_ways(*pairs: Pair) -> list[Pair]:
    return [way for pair in pairs for way in (pair, pair[::-1])]


async def cut(swarm: Watched, pairs: Iterable[Pair]) -> None:
    await swarm.shape(dict.fromkeys(pairs, Link(down=True)))


async def heal(swarm: Watched, pairs: Iterable[Pair]) -> float:
    """When it was."""
    await swarm.shape({pair: swarm.topology.link(pair) for pair in pairs})
    return swarm.now


def swaps(swarm: Watched, one: str, other: str, since: float = 0.0) -> list[Exchanged]:
    """Of these two, begun after `since`."""
    found = swarm.events(one, Exchanged, since)
    return [event for time, event in found if event.peer == swarm.peer(other) and time - event.seconds > since]


async def swap(swarm: Watched, one: str, other: str, since: float, num: int = 1) -> None:
    await swarm.until(lambda: len(swaps(swarm, one, other, since)) >= num, HEAL_S)


def losses(swarm: Watched, one: str, other: str) -> list[str]:
    """Why one has dropped the other from its view."""
    return [event.reason for _, event in swarm.events(one, Left) if event.peer == swarm.peer(other)]


def unscathed(swarm: Watched) -> bool:
    """Nobody has died or been started again."""
    return all(not swarm.events(name, Died) and len(swarm.events(name, Started)) == 1 for name in NAMES)


async def test_a_split_swarm_is_two_and_then_one_again(tmp_path: Path) -> None:
    async with Watched(topology(3, links=NEAR), tmp_path) as swarm:
        await swarm.whole(NAMES, START_S)
        await swap(swarm, THREE, ONE, 0)
        border = both_ways((ONE, THREE), (TWO, THREE))
        await cut(swarm, border)
        await swarm.whole((ONE, TWO), 30)
        await swarm.whole((THREE,), 30)
        await swarm.grow(NAMES, 30)
        assert losses(swarm, ONE, THREE) == losses(swarm, THREE, ONE) == ["silent"]
        assert losses(swarm, ONE, TWO) == losses(swarm, TWO, ONE) == []
        healed = await heal(swarm, border)
        await swarm.whole(NAMES, HEAL_S)
        await swap(swarm, THREE, ONE, healed)
        await swap(swarm, THREE, TWO, healed)
        assert unscathed(swarm)


async def test_who_is_not_heard_is_dropped_and_taken_back_and_others_see_both(tmp_path: Path) -> None:
    async with Watched(topology(3, links=NEAR), tmp_path) as swarm:
        await swarm.whole(NAMES, START_S)
        await cut(swarm, [(ONE, TWO)])
        await swarm.until(lambda: losses(swarm, TWO, ONE) == ["silent"], 30)
        since = swarm.now
        await swap(swarm, THREE, ONE, since)
        await swap(swarm, THREE, TWO, since)
        assert not swarm.events(THREE, Left)
        healed = await heal(swarm, [(ONE, TWO)])
        await swarm.whole(NAMES, HEAL_S)
        await swap(swarm, ONE, TWO, healed)
        assert unscathed(swarm)


async def test_a_slow_link_slows_nobody_else(tmp_path: Path) -> None:
    async with Watched(topology(3, links=NEAR), tmp_path) as swarm:
        await swarm.whole(NAMES, START_S)
        await swarm.shape(
            dict.fromkeys(both_ways((ONE, TWO)), Link(latency=0.1, jitter=0.02, bandwidth=1e6, loss=0.01))
        )
        since = swarm.now
        await swap(swarm, ONE, TWO, since, num=3)
        await swap(swarm, ONE, THREE, since, num=3)
        slow = [event.seconds for event in swaps(swarm, ONE, TWO, since)]
        fast = [event.seconds for event in swaps(swarm, ONE, THREE, since)]
        assert min(slow) >= 0.2, slow
        assert min(fast) < min(slow), fast
        await heal(swarm, both_ways((ONE, TWO)))
        await swarm.whole(NAMES, HEAL_S)
        assert unscathed(swarm)


async def test_over_a_link_that_flaps_from_the_start_nodes_find_each_other_and_swap(tmp_path: Path) -> None:
    faults = [{"at": 0, "flap": {"from": ONE, "to": TWO}, "every": 3, "down": 1, "for": 3000}]
    async with Watched(topology(2, faults=faults), tmp_path) as swarm:
        await swarm.whole((ONE, TWO), START_S)
        flaps = len(swarm.state.faults)
        await swap(swarm, ONE, TWO, swarm.now, num=3)
        await swarm.wait(lambda state: len(state.faults) >= flaps + 6, 60)
        await swap(swarm, ONE, TWO, swarm.now, num=3)
        assert {stamped.event.verb for stamped in swarm.state.faults} == {"shape", "unshape"}


async def test_a_suspended_node_is_missed_and_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    async with Watched(topology(3), tmp_path) as swarm:
        await swarm.whole(NAMES, START_S)
        await swap(swarm, THREE, ONE, 0)
        await swarm.pause(THREE)
        await swarm.whole((ONE, TWO), 30)
        await swarm.grow((ONE, TWO), 30)
        woken = swarm.now
        await swarm.resume(THREE)
        await swarm.whole(NAMES, HEAL_S)
        await swap(swarm, THREE, ONE, woken)
        await swarm.grow(NAMES, 30)
        assert losses(swarm, ONE, THREE) == losses(swarm, TWO, THREE) == ["silent"]
        assert unscathed(swarm)


async def test_a_wrong_clock_is_warned_about_and_costs_nothing_else(tmp_path: Path) -> None:
    async with Watched(topology(3, faults=[{"at": 0, "skew": TWO, "by": 10}]), tmp_path) as swarm:
        await swarm.whole(NAMES, START_S)
        for other in (ONE, THREE):
            await swarm.until(lambda other=other: swarm.notes(other, swarm.peer(TWO), "s ahead of"), 30)
        await swap(swarm, TWO, ONE, 0)
        # Also after a restart, and when the clock is set back: the new records look older than the last ones.
        restarted = swarm.now
        await swarm.skew(TWO, -10)
        await swarm.restart(TWO)
        await swarm.until(lambda: _notes_since(swarm, TWO, restarted, "s ahead of"), START_S)
        await swarm.whole(NAMES, HEAL_S)
        await swap(swarm, TWO, ONE, restarted)
        await swarm.grow(NAMES, 30)
        assert not swarm.notes(ONE, "clock", swarm.peer(THREE))


def _notes_since(swarm: Watched, name: str, since: float, text: str) -> bool:
    return any(text in event.message for _, event in swarm.events(name, Noted, since))


async def test_a_torn_checkpoint_is_passed_over_and_a_dead_bootstrap_keeps_nobody_out(tmp_path: Path) -> None:
    async with Watched(topology(3), tmp_path) as swarm:
        await swarm.whole(NAMES, START_S)
        await swarm.until(lambda: swarm.events(THREE, Saved), 30)
        folder = swarm.home(THREE) / "checkpoints"
        await swarm.tear(THREE)
        assert [event.on_purpose for _, event in swarm.events(THREE, Died)] == [True]
        (torn,) = folder.glob("*.tmp")
        newest = max(folder.glob("*.safetensors"))
        assert torn.name > newest.name
        assert 0 < torn.stat().st_size < newest.stat().st_size

        await swarm.kill(ONE)
        restarted = swarm.now
        await swarm.start(THREE)
        await swarm.until(lambda: swarm.events(THREE, Resumed), START_S)
        assert f"-step-{swarm.events(THREE, Resumed)[0][1].step}." in newest.name
        assert not torn.exists()
        await swarm.whole((TWO, THREE), HEAL_S)
        await swap(swarm, THREE, TWO, restarted)
        await swarm.start(ONE)
        await swarm.whole(NAMES, START_S)


async def test_when_everybody_restarts_nothing_is_lost_but_the_steps_since_the_last_checkpoints(tmp_path: Path) -> None:
    async with Watched(topology(3), tmp_path) as swarm:
        await swarm.whole(NAMES, START_S)
        await swarm.wait(lambda state: all((node.accuracy or 0) > 0.6 for node in state.nodes.values()), 60)
        saved = {name: len(swarm.events(name, Saved)) for name in NAMES}
        await swarm.until(lambda: all(len(swarm.events(name, Saved)) > saved[name] for name in NAMES), 30)
        await asyncio.gather(*map(swarm.kill, NAMES))
        assert swarm.running == []
        newest = {name: max((swarm.home(name) / "checkpoints").glob("*.safetensors")).name for name in NAMES}
        restarted = swarm.now
        await asyncio.gather(*map(swarm.start, NAMES))
        await swarm.whole(NAMES, START_S)
        for name in NAMES:
            await swarm.until(lambda name=name: swarm.events(name, Exchanged, restarted), HEAL_S)
            await swarm.until(lambda name=name: swarm.events(name, Evaluated, restarted), 30)
            ((_, resumed),) = swarm.events(name, Resumed, restarted)
            assert f"-step-{resumed.step}." in newest[name]
            assert swarm.events(name, Evaluated, restarted)[0][1].loss < UNTRAINED / 1.5
