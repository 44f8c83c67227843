"""Faults that befall stand-ins for daemons: what the launcher does, without what a swarm makes of it."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from test_launcher import FAKE, LAUNCH, runs, stepping, topology
from typer.testing import CliRunner

from node import launcher
from node.cli import app
from node.launcher import Swarm
from p2ptrain.config import NodeFile, load
from p2ptrain.errors import ConfigError
from p2ptrain.telemetry.state import SwarmState
from p2ptrain.topology import Topology

LONG = 30_000


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "PROGRAM", (sys.executable, FAKE))


def noted(message: str) -> Callable[[SwarmState], bool]:
    return lambda state: any(message in note.message for note in state.notes)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the system does not tell
            await asyncio.sleep(0.01)


async def test_the_faults_of_the_file_come_at_their_times_and_are_told(tmp_path: Path) -> None:
    faults = [{"at": 0.5, "kill": "b", "for": 0.5}, {"at": 0.6, "pause": "a", "for": 0.3}]
    async with Swarm(topology("a", "b", steps=200, faults=faults), tmp_path) as swarm:
        state = await swarm.finish()
    told = [(stamped.event.verb, stamped.event.whom) for stamped in state.faults]
    assert told == [("kill", "b"), ("pause", "a"), ("resume", "a"), ("start", "b")]
    assert all(stamped.time >= at for stamped, at in zip(state.faults, (0.5, 0.6, 0.9, 1.0), strict=True))
    assert {node.phase for node in state.nodes.values()} == {"stopped"}
    assert state.nodes["b"].num_restarts == 1
    assert {note.level for note in state.notes} == {"info"}


async def test_times_count_from_when_all_train(tmp_path: Path) -> None:
    file = topology("a", "slow", steps=200, faults=[{"at": 0.5, "kill": "a"}])
    async with Swarm(file, tmp_path) as swarm:
        state = await swarm.finish()
    begun = state.nodes["slow"].training_since
    assert begun
    assert state.faults[0].time >= begun + 0.5


async def test_they_count_from_the_start_when_something_is_due_then(tmp_path: Path) -> None:
    faults = [{"at": 0, "skew": "a", "by": 5}, {"at": 0.5, "skew": "a", "by": 6}]
    async with Swarm(topology("a", "slow", steps=200, faults=faults), tmp_path) as swarm:
        state = await swarm.finish()
    assert 0.5 <= state.faults[1].time < (state.nodes["slow"].training_since or 0)


async def test_a_run_does_not_end_while_everybody_is_down_but_to_come_back(tmp_path: Path) -> None:
    faults = [{"at": 0.3, "kill": "all", "for": 1.5}]
    async with Swarm(topology("a", "b", steps=300, faults=faults), tmp_path) as swarm:
        state = await swarm.finish()
    assert {node.num_restarts for node in state.nodes.values()} == {1}
    assert {node.phase for node in state.nodes.values()} == {"stopped"}


async def test_a_late_node_is_waited_for_and_told_of_those_that_live(tmp_path: Path) -> None:
    file = topology("a", "b", "c", steps=400, faults=[{"at": 0.5, "kill": "a"}])
    late = Topology.model_validate(
        {**file.model_dump(), "nodes": [{"name": "a"}, {"name": "b"}, {"name": "c", "starts": 2}]}
    )
    async with Swarm(late, tmp_path) as swarm:
        assert swarm.running == ["a", "b"]
        state = await swarm.finish()
        assert state.nodes["c"].phase == "stopped"
        assert state.nodes["c"].num_restarts == 0
        assert (state.nodes["c"].started or 0) > 2
        bootstrap = load(tmp_path / "c" / "node.yaml", NodeFile).node.bootstrap
        assert bootstrap[0] == swarm.files["b"].node.listen


async def test_a_late_node_is_waited_for_when_all_others_are_done(tmp_path: Path) -> None:
    file = Topology.model_validate(
        {**topology("a", steps=5).model_dump(), "nodes": [{"name": "a"}, {"name": "b", "starts": 3}]}
    )
    async with Swarm(file, tmp_path) as swarm:
        state = await swarm.finish()
    assert state.nodes["b"].step == 5


async def test_faults_after_the_end_of_training_are_dropped_with_a_note(tmp_path: Path) -> None:
    faults = [{"at": 60 + index, "kill": "b"} for index in range(7)] + [{"at": 61, "start": "b"}]
    async with Swarm(topology("a", "b", steps=5, faults=faults), tmp_path) as swarm:
        state = await swarm.finish()
        assert swarm.now < 60
    (note,) = [note for note in state.notes if note.level == "warning"]
    assert "training is over" in note.message
    assert "kill b (60 s)" in note.message
    assert "3 more" in note.message
    assert state.faults == ()


async def test_who_has_trained_to_the_end_is_not_started_again(tmp_path: Path) -> None:
    async with Swarm(topology("a", "linger", steps=5), tmp_path) as swarm:
        await swarm.wait(lambda state: state.nodes["a"].phase == "stopped", 20)
        await until(lambda: "a" not in swarm.running)
        await swarm.start("a")
        assert noted("trained to the end")(swarm.state)
        assert swarm.running == ["linger"]


async def test_what_is_so_already_is_left_so(tmp_path: Path) -> None:
    async with Swarm(topology("a", "b", steps=LONG), tmp_path) as swarm:
        await swarm.wait(stepping("b"), 20)
        pid = swarm.pid("a")
        await swarm.start("a")
        await swarm.resume("a")
        assert swarm.pid("a") == pid
        await swarm.kill("b")
        for act in (swarm.kill, swarm.stop, swarm.pause, swarm.resume, swarm.tear):
            await act("b")
        await swarm.skew("b", 1.0)
        assert swarm.running == ["a"]


async def test_a_paused_node_stands_still_with_its_helpers_and_goes_on(tmp_path: Path) -> None:
    async with Swarm(topology("helper", steps=LONG), tmp_path) as swarm:
        await swarm.wait(stepping("helper"), 20)
        daemon = psutil.Process(swarm.pid("helper"))
        family = [daemon, *daemon.children()]
        await swarm.pause("helper")
        await swarm.pause("helper")
        await until(lambda: {process.status() for process in family} == {psutil.STATUS_STOPPED})
        await swarm.resume("helper")
        await until(lambda: psutil.STATUS_STOPPED not in {process.status() for process in family})
        step = swarm.state.nodes["helper"].step
        await swarm.wait(lambda state: state.nodes["helper"].step > step + 5, 10)


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_paused_node_can_be_ended(end: str, tmp_path: Path) -> None:
    async with Swarm(topology("a", steps=LONG), tmp_path) as swarm:
        await swarm.wait(stepping("a"), 20)
        await swarm.pause("a")
        await getattr(swarm, end)("a")
        assert swarm.state.nodes["a"].phase == {"stop": "stopped", "kill": "dead"}[end]
        await swarm.restart("a")
        await swarm.wait(stepping("a"), 20)


def test_paused_nodes_end_as_well_when_their_launcher_is_killed(tmp_path: Path) -> None:
    script = LAUNCH.replace("        print(", '        await swarm.pause("a")\n        print(')
    assert script != LAUNCH
    launched = subprocess.Popen([sys.executable, "-c", script, FAKE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert launched.stdout
    pids = [int(pid) for pid in launched.stdout.readline().split()]
    launched.kill()
    launched.wait()
    launched.stdout.close()
    asyncio.run(until(lambda: not any(map(runs, pids))))


async def test_a_torn_node_ends_itself_and_that_is_no_alarm(tmp_path: Path) -> None:
    async with Swarm(topology("a", steps=LONG), tmp_path) as swarm:
        await swarm.wait(stepping("a"), 20)
        await swarm.tear("a")
        assert swarm.state.nodes["a"].exit_code == -9
        assert {note.level for note in swarm.state.notes} == {"info"}


async def test_a_skew_outlives_a_restart(tmp_path: Path) -> None:
    async with Swarm(topology("a", steps=LONG), tmp_path) as swarm:
        await swarm.wait(stepping("a"), 20)
        await swarm.skew("a", -7.5)
        await swarm.wait(noted("skew -7.5"), 10)
        num_notes = len(swarm.state.notes)
        await swarm.restart("a")
        await swarm.wait(lambda state: any("skew -7.5" in note.message for note in state.notes[num_notes:]), 20)


@pytest.mark.parametrize(
    "line", [b"", b"skew", b"skew x", b"skew nan", b"skew inf", b"skew 1 2", b"tear now", b"\xff\x00", b"x" * 200]
)
def test_orders_that_make_no_sense_are_ignored(line: bytes) -> None:
    from node.leash import Orders

    orders = Orders()
    orders.take(line)
    assert orders == Orders()


async def test_proxies_are_there_when_links_are_spoken_of(tmp_path: Path) -> None:
    cut = {"at": 100, "cut": {"from": "a", "to": "b"}, "for": 1}
    for index, (more, proxied) in enumerate(
        [({}, False), ({"links": {"default": {"latency": "1ms"}}}, True), ({"faults": [cut]}, True)]
    ):
        async with Swarm(topology("a", "b", steps=1, **more), tmp_path / str(index)) as swarm:
            await swarm.finish()
        proxies = {file.node.proxy for file in swarm.files.values()}
        assert len(proxies) == 2 if proxied else proxies == {None}


FILE = """\
run: {task: digits, steps: 1}
node:
  heartbeat: 1
  #proxy: 127.0.0.1:1
links:
  default:
    latency: 20ms
    #drop: 1%
faults:
  - at: 1s
    degrade: {from: node-0, to: all}
    link:
      loss: 1%
      #corrupt: 0.1
"""


@pytest.mark.parametrize(
    ("forbidden", "line", "key"),
    [("proxy", 4, "node.proxy"), ("drop", 8, "links.default.drop"), ("corrupt", 14, "faults.0.link.corrupt")],
)
def test_what_only_the_simulator_can_is_refused_with_line_and_key(
    forbidden: str, line: int, key: str, tmp_path: Path
) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(FILE.replace(f"#{forbidden}", forbidden))
    with pytest.raises(ConfigError):
        Swarm(load(file, Topology), tmp_path / "out")
    told = CliRunner().invoke(app, ["up", str(file), "--out", str(tmp_path / "out")])
    assert told.exit_code == 2
    assert f"{file}:{line}: {key}: " in told.output
    assert not (tmp_path / "out").exists()
    if forbidden != "proxy":
        assert f"sim alone: no TCP connection does {key}" in CliRunner().invoke(app, ["check", str(file)]).output
