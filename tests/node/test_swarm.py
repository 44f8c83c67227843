"""Whole swarms: real daemons, real DHT, real gRPC on loopback, real kills."""

import itertools
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file
from watched import START_S, UNTRAINED, Watched, topology

from node import resolve, summary
from node.launcher import Swarm
from p2ptrain.daemon import FINAL
from p2ptrain.telemetry.events import (
    Died,
    Evaluated,
    Exchanged,
    Fetched,
    Joined,
    Left,
    Resumed,
    Saved,
    Started,
    Stepped,
    Stopped,
)

pytestmark = pytest.mark.timeout(400)
"""Eight processes that load torch at once take their time on two cores."""


async def test_three_nodes_find_each_other_train_and_agree_to_the_bit(tmp_path: Path) -> None:
    # So large a model that swaps are worth compiled loops, which the small ones of the other tests do without.
    large = topology(3, steps=200, task={"name": "digits", "hidden": 1024})
    async with Watched(large, tmp_path) as swarm:
        await swarm.whole(swarm.files, START_S)
        state = await swarm.finish()
    result = summary.build(
        swarm.topology, state, swarm.now, summary.consensus([swarm.home(name) / FINAL for name in state.nodes])
    )
    assert result["ok"]
    assert result["consensus"] == 0.0
    for name, node in result["nodes"].items():
        assert node["alive"], name
        assert node["steps"] == 200, name
        assert node["exchanges"] > 10, name
        assert node["accuracy"] > 0.85, name
    assert len({node["digest"] for node in result["nodes"].values()}) == 1
    assert {node.exit_code for node in state.nodes.values()} == {None}
    assert not swarm.running


async def test_a_dead_helper_is_replaced_and_no_stranger_gets_in(tmp_path: Path) -> None:
    swarm = Watched(topology(4), tmp_path)
    stranger, victim, others = "node-3", "node-2", ("node-0", "node-1")
    swarm.files[stranger] = resolve.with_node(swarm.files[stranger], key="the key of another swarm")
    async with swarm:
        await swarm.whole((*others, victim), START_S)
        await swarm.wait(lambda state: all(state.nodes[name].exchanges > 3 for name in (*others, victim)), 30)

        # A dead p2pd is replaced, and nobody notices.
        quiet_since = swarm.now
        (helper,) = _helpers(swarm, victim)
        helper.kill()
        await swarm.until(lambda: swarm.notes(victim, "p2pd", "died", "starting it again"), 20)
        await swarm.until(lambda: swarm.notes(victim, "p2pd runs again"), 30)
        assert [process.pid for process in _helpers(swarm, victim)] != [helper.pid]
        await swarm.grow((*others, victim), 30)
        for name in (*others, victim):
            assert not swarm.events(name, Left, quiet_since), name

        # The stranger knows where the swarm is, and trains alone all the same.
        door = swarm.files["node-0"].node.listen
        await swarm.until(lambda: swarm.notes(stranger, f"bootstrap {door}: foreign-key"), 20)
        await swarm.grow([stranger], 30)
        assert not swarm.events(stranger, Joined)
        assert not swarm.events(stranger, Exchanged)
        for name in (*others, victim):
            assert swarm.peer(stranger) not in {event.peer for _, event in swarm.events(name, Joined)}

        for name in others:
            assert not swarm.events(name, Died)
            steps = [event.step for _, event in swarm.events(name, Stepped)]
            assert all(before < after for before, after in itertools.pairwise(steps)), name


async def test_a_dead_bootstrap_a_late_joiner_and_an_orderly_end_with_a_resume(tmp_path: Path) -> None:
    swarm = Watched(topology(3), tmp_path)
    founder, early, late = swarm.files
    held = {name: swarm.files.pop(name) for name in (founder, late)}
    async with swarm:
        # The bootstrap is not there: the node says so, and trains alone.
        door = held[founder].node.listen
        await swarm.until(lambda: swarm.notes(early, f"bootstrap {door}", "unreachable"), START_S)
        await swarm.until(lambda: swarm.events(early, Saved), 60)
        await swarm.wait(lambda state: (state.nodes[early].accuracy or 0) > 0.6, 60)
        assert not swarm.events(early, Joined)

        # It comes up at last, with nothing to go by: the early one knocks, and the state that there is wins.
        swarm.files.update(held)
        await swarm._spawn(founder, held[founder])
        await swarm.whole((founder, early), START_S)
        await swarm.until(lambda: swarm.events(founder, Fetched), 20)
        await swarm.until(lambda: swarm.events(founder, Exchanged) and swarm.events(early, Exchanged), 20)
        assert min(time for time, _ in swarm.events(founder, Exchanged)) > swarm.events(founder, Fetched)[0][0]
        await swarm.grow((founder, early), 20)
        came = swarm.events(founder, Started)[0][0]
        await swarm.until(lambda: swarm.events(early, Evaluated, came), 20)
        assert all(event.loss < UNTRAINED / 2 for _, event in swarm.events(early, Evaluated, came))

        # A late joiner starts where the others are.
        await swarm._spawn(late, held[late])
        await swarm.until(lambda: swarm.events(late, Exchanged) and swarm.events(late, Evaluated), START_S)
        ((fetched, event),) = swarm.events(late, Fetched)
        assert event.donors >= 1
        assert event.bytes_received >= 4 * 4810
        assert all(time >= fetched for time, _ in swarm.events(late, Stepped))
        assert swarm.events(late, Evaluated)[0][1].loss < UNTRAINED / 2
        await swarm.whole(swarm.files, 10)

        # Asked to leave, it leaves in order.
        await swarm.until(lambda: len(swarm.events(late, Saved)) >= 2, 30)
        process = psutil.Process(swarm.pid(late))
        await swarm.stop(late)
        assert not process.is_running()
        assert swarm.state.nodes[late].phase == "stopped"
        assert swarm.state.nodes[late].exit_code is None
        (_, stopped), *more = swarm.events(late, Stopped)
        assert not more
        assert load_file(swarm.home(late) / FINAL)["flat"].shape == (4810,)
        assert stopped.digest == summary_digest(swarm.home(late) / FINAL)
        for name in (founder, early):
            assert [event.reason for _, event in swarm.events(name, Left)] == ["leaving"], name

        # It comes back without its newest checkpoint, which the disk has damaged.
        newest, older = sorted((swarm.home(late) / "checkpoints").iterdir(), reverse=True)
        assert f"-step-{stopped.step}." in newest.name
        damage(newest)
        restarted = swarm.now
        await swarm.restart(late)
        await swarm.until(lambda: swarm.events(late, Exchanged, restarted), START_S)
        await swarm.until(lambda: swarm.events(late, Stepped, restarted), 20)
        assert swarm.notes(late, newest.name)
        (_, resumed), *more = swarm.events(late, Resumed)
        assert not more
        assert f"-step-{resumed.step}." in older.name
        assert swarm.events(late, Stepped, restarted)[0][1].step > resumed.step
        for name in (founder, early):
            assert not swarm.events(name, Died)


async def test_eight_nodes_that_start_at_once_are_one_swarm(tmp_path: Path) -> None:
    async with Watched(topology(8), tmp_path) as swarm:
        await swarm.wait(lambda state: all(node.started is not None for node in state.nodes.values()), START_S)
        await swarm.whole(swarm.files, START_S)
        await swarm.wait(lambda state: all(node.exchanges for node in state.nodes.values()), START_S)
        for name in swarm.files:
            assert not swarm.events(name, Died)


def _helpers(swarm: Swarm, name: str) -> list[psutil.Process]:
    """The node's running p2pd."""
    found = psutil.Process(swarm.pid(name)).children()
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def damage(path: Path) -> None:
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def summary_digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(load_file(path)["flat"].tobytes()).hexdigest()
