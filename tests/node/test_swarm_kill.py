"""Kill -9 one of four: what the others make of it, and how it comes back. All that is asked, the events tell."""

import itertools
from pathlib import Path

import pytest
from watched import START_S, UNTRAINED, Watched, topology

from p2ptrain.telemetry.events import (
    Evaluated,
    Event,
    Exchanged,
    Failed,
    Faulted,
    Fetched,
    Joined,
    Left,
    Restarted,
    Resumed,
    Started,
    Stepped,
)

pytestmark = pytest.mark.timeout(400)

HEARTBEAT_S = 2.0
AWAY_S = 10.0
CONTRIBUTES_S = 10.0
VICTIM, OTHERS = "node-2", ("node-0", "node-1", "node-3")


async def test_the_others_lose_no_step_and_it_comes_back_from_their_state(tmp_path: Path) -> None:
    faults = [{"at": 8, "kill": VICTIM, "for": AWAY_S}]
    async with Watched(topology(4, heartbeat=HEARTBEAT_S, faults=faults), tmp_path) as swarm:
        await swarm.whole(swarm.files, START_S)
        await swarm.until(lambda: swarm.events(VICTIM, Restarted), START_S)
        (restarted, _), *more = swarm.events(VICTIM, Restarted)
        assert not more
        await swarm.until(lambda: _with_others(swarm, VICTIM, restarted), START_S)
        await swarm.until(lambda: all(swarm.events(name, Evaluated, restarted) for name in swarm.files), 30)
        await swarm.whole(swarm.files, 30)
        await swarm.until(lambda: all(_of_peer(swarm, name, VICTIM, restarted) for name in OTHERS), 60)

    killed = _fault(swarm, "kill")
    for name in OTHERS:
        _was_not_disturbed(swarm, name, killed, restarted)
        (dropped,) = (time for time, event in swarm.events(name, Left) if event.peer == swarm.peer(VICTIM))
        assert 0 <= dropped - killed <= 3 * HEARTBEAT_S, f"{name} dropped it after {dropped - killed:.2f} s"
    _came_back_from_its_peers(swarm, restarted)


def _was_not_disturbed(swarm: Watched, name: str, killed: float, restarted: float) -> None:
    """It is the same process, it took a step in each heartbeat, and none was undone or taken twice."""
    assert len(swarm.events(name, Started)) == 1, name
    assert not swarm.events(name, Resumed)
    assert all(time < killed for time, _ in swarm.events(name, Fetched)), name
    told = [(time, event.step) for time, event in swarm.events(name, Stepped)]
    assert all(before < after for (_, before), (_, after) in itertools.pairwise(told)), name
    times = [killed, *(time for time, _ in told if killed < time < restarted), restarted]
    longest = max(after - before for before, after in itertools.pairwise(times))
    assert longest < HEARTBEAT_S, f"{name} took no step for {longest:.2f} s"
    assert all(event.peer == swarm.peer(VICTIM) for _, event in swarm.events(name, Failed, killed)), name
    assert any(event.peer != swarm.peer(VICTIM) for _, event in swarm.events(name, Exchanged, killed)), name


def _came_back_from_its_peers(swarm: Watched, restarted: float) -> None:
    (fetched, state), *more = swarm.events(VICTIM, Fetched, restarted)
    assert not more
    assert state.donors >= 1
    # What it got is newer than anything that it ever had itself.
    assert state.step > max(event.step for time, event in swarm.events(VICTIM, Stepped) if time < restarted)
    assert all(time > fetched for time, _ in swarm.events(VICTIM, Stepped, restarted))
    first = swarm.events(VICTIM, Evaluated, restarted)[0][1]
    others = [swarm.events(name, Evaluated, restarted)[0][1].loss for name in OTHERS]
    assert first.loss < max(others) + 0.3 < UNTRAINED
    ((started, _),) = swarm.events(VICTIM, Started, restarted)
    contributed = _with_others(swarm, VICTIM, restarted)[0]
    print(
        f"first swap {contributed - restarted:.2f} s after its process began, {contributed - started:.2f} s of them up"
    )
    assert contributed > fetched
    assert contributed - started <= CONTRIBUTES_S, f"{contributed - started:.2f} s after it was up"


def _fault(swarm: Watched, verb: str) -> float:
    """When it was done."""
    (time,) = (stamped.time for stamped in swarm.state.faults if _verb(stamped.event) == verb)
    return time


def _verb(event: Event) -> str:
    return event.verb if isinstance(event, Faulted) else ""


def _of_peer(swarm: Watched, name: str, other: str, since: float) -> list[float]:
    """When it took the other back into its view."""
    return [time for time, event in swarm.events(name, Joined, since) if event.peer == swarm.peer(other)]


def _with_others(swarm: Watched, name: str, since: float) -> list[float]:
    """When its swaps were applied, which their partners have applied too."""
    peers = {swarm.peer(other) for other in OTHERS}
    return [time for time, event in swarm.events(name, Exchanged, since) if event.peer in peers]
