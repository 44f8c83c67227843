import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from node import launcher
from node.docker import DockerSwarm
from node.launcher import Swarm
from node.up import up
from p2ptrain.config import NodeFile, load
from p2ptrain.daemon import FINAL
from p2ptrain.errors import ConfigError
from p2ptrain.telemetry import sinks
from p2ptrain.telemetry.state import SwarmState
from p2ptrain.topology import Topology

FAKE = str(Path(__file__).with_name("fake_daemon.py"))


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "PROGRAM", (sys.executable, FAKE))


def topology(*names: str, steps: int = 30, **more: Any) -> Topology:
    nodes = [{"name": name} for name in names]
    return Topology.model_validate({"name": "test", "run": {"task": "digits", "steps": steps}, "nodes": nodes, **more})


def stepping(name: str) -> Callable[[SwarmState], bool]:
    return lambda state: state.nodes[name].step > 0


async def test_a_run_ends_by_itself_and_leaves_its_files(tmp_path: Path) -> None:
    async with Swarm(topology("a", "b"), tmp_path / "out") as swarm:
        state = await swarm.finish()
        assert not swarm.running
    assert {node.phase for node in state.nodes.values()} == {"stopped"}
    assert {node.step for node in state.nodes.values()} == {30}
    again = sinks.read(tmp_path / "out" / "events.jsonl")
    assert again.nodes.keys() == state.nodes.keys()
    assert again.nodes["a"].losses == state.nodes["a"].losses
    assert load(tmp_path / "out" / "topology.yaml", Topology) == swarm.topology
    file = load(tmp_path / "out" / "b" / "node.yaml", NodeFile)
    assert file == swarm.files["b"]
    assert file.node.bootstrap == (swarm.files["a"].node.listen,)
    assert stat.S_IMODE((tmp_path / "out" / "b" / "node.yaml").stat().st_mode) == 0o600


async def test_times_of_all_nodes_count_from_one_moment(tmp_path: Path) -> None:
    async with Swarm(topology("a", "b", steps=1), tmp_path) as swarm:
        state = await swarm.finish()
        assert all(0 < node.started < swarm.now for node in state.nodes.values() if node.started)
        assert 0 < state.time <= swarm.now + 0.1


async def test_a_killed_node_is_dead_the_others_go_on_and_it_comes_back(tmp_path: Path) -> None:
    async with Swarm(topology("a", "b", steps=3000), tmp_path) as swarm:
        await swarm.wait(stepping("b"), 20)
        await swarm.kill("b")
        assert swarm.state.nodes["b"].phase == "dead"
        assert swarm.state.nodes["b"].exit_code == -9
        step = swarm.state.nodes["a"].step
        await swarm.wait(lambda state: state.nodes["a"].step > step + 5, 10)
        await swarm.kill("b")  # once more does no harm
        await swarm.restart("b")
        assert swarm.state.nodes["b"].phase == "starting"
        await swarm.wait(lambda state: state.nodes["b"].phase == "training", 20)
        await swarm.drain()
    assert {node.phase for node in swarm.state.nodes.values()} == {"stopped"}
    assert swarm.state.num_alive == 2


async def test_the_first_node_comes_back_to_the_others(tmp_path: Path) -> None:
    async with Swarm(topology("a", "b", steps=3000), tmp_path) as swarm:
        await swarm.wait(stepping("b"), 20)
        await swarm.kill("a")
        await swarm.restart("a")
        file = load(tmp_path / "a" / "node.yaml", NodeFile)
        assert file.node.bootstrap == (swarm.files["b"].node.listen,)


async def test_a_crash_is_told_with_the_last_words(tmp_path: Path) -> None:
    async with Swarm(topology("crash", "b"), tmp_path) as swarm:
        state = await swarm.finish()
    assert state.nodes["crash"].phase == "dead"
    assert state.nodes["b"].phase == "stopped"
    assert "RuntimeError: out of luck" in [note.message for note in state.notes]


async def test_noise_on_standard_output_goes_to_the_log(tmp_path: Path) -> None:
    async with Swarm(topology("chatty"), tmp_path) as swarm:
        state = await swarm.finish()
        assert state.nodes["chatty"].step == 30
        assert "not an event" in (tmp_path / "chatty" / "node.log").read_text()


async def test_who_does_not_stop_is_killed(tmp_path: Path) -> None:
    async with Swarm(topology("stubborn", steps=3000), tmp_path) as swarm:
        await swarm.wait(stepping("stubborn"), 20)
        await swarm.stop("stubborn", timeout_s=0.3)
        assert swarm.state.nodes["stubborn"].exit_code == -9


async def test_who_lingers_is_asked_to_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "LINGER_S", 0.3)
    async with Swarm(topology("linger"), tmp_path) as swarm:
        state = await asyncio.wait_for(swarm.finish(), 20)
    assert state.nodes["linger"].phase == "stopped"


async def test_nothing_survives_an_error_in_the_launcher(tmp_path: Path) -> None:
    async def fail() -> None:
        async with Swarm(topology("helper-a", "b", steps=3000), tmp_path) as swarm:
            await swarm.wait(lambda state: all(node.step for node in state.nodes.values()), 20)
            for name in swarm.files:
                process = psutil.Process(swarm.pid(name))
                pids.extend([process.pid, *(child.pid for child in process.children())])
            raise RuntimeError("a bug")

    pids: list[int] = []
    with pytest.raises(RuntimeError, match="a bug"):
        await fail()
    assert len(pids) == 3
    assert [pid for pid in pids if runs(pid)] == []


async def test_nothing_survives_a_view_that_fails(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    swarm = Swarm(topology("a", steps=3000), tmp_path, fail)
    with pytest.raises(RuntimeError, match="a bug"):
        async with swarm:
            await swarm.finish()
    assert not swarm.running


async def test_waiting_says_where_the_nodes_are(tmp_path: Path) -> None:
    async with Swarm(topology("a", steps=1), tmp_path) as swarm:
        await swarm.finish()
        with pytest.raises(TimeoutError, match="a stopped at step 1"):
            await swarm.wait(lambda state: state.nodes["a"].step == 2, 0.05)


def test_nodes_leave_when_their_launcher_is_killed(tmp_path: Path) -> None:
    launched = subprocess.Popen([sys.executable, "-c", LAUNCH, FAKE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert launched.stdout
    pids = [int(pid) for pid in launched.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(runs, pids))
    launched.kill()
    launched.wait()
    launched.stdout.close()
    psutil.wait_procs([psutil.Process(pid) for pid in pids if runs(pid)], timeout=10)
    assert not any(map(runs, pids))


LAUNCH = """
import asyncio, sys
from pathlib import Path
from node import launcher
from p2ptrain.topology import Topology
from p2ptrain.daemon import FINAL
launcher.PROGRAM = (sys.executable, sys.argv[1])
file = {"run": {"task": "digits", "steps": 5000}, "nodes": [{"name": "a"}, {"name": "b"}]}
async def main():
    async with launcher.Swarm(Topology.model_validate(file), Path(sys.argv[2])) as swarm:
        await swarm.wait(lambda state: all(node.step for node in state.nodes.values()), 20)
        print(*map(swarm.pid, swarm.files), flush=True)
        await swarm.finish()
asyncio.run(main())
"""


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_everything_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "summary.json").touch()
    cases: list[tuple[Topology, str, str]] = [
        (topology("a", node={"slot": 3}), "new", "node.slot"),
        (topology("a", node={"device": "cuda:77"}), "new", "no device"),
        (topology("a", "b", node={"listen": "127.0.0.1:65535"}), "new", "node.listen"),
        (topology("a", node={"listen": "203.0.113.1:0"}), "new", "node.listen"),
        (
            topology("a").model_copy(update={"run": topology("a").run.model_copy(update={"strategy": _odd()})}),
            "new",
            "Odd",
        ),
        (topology("a"), "old", "already"),
    ]
    for file, out, message in cases:
        with pytest.raises(ConfigError, match=message):
            Swarm(file, tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def _odd() -> Any:
    from p2ptrain import strategies

    return strategies.make("local", optimizer="Odd")


def _two_free_ports() -> int:
    """The first of two in a row, below those that the kernel gives to whoever asks for any, as tests beside this do."""
    for port in range(20_000, 30_000, 2):
        with suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 1))
            return port
    raise OSError("no two free ports in a row")


def test_ports_follow_each_other_when_one_is_given(tmp_path: Path) -> None:
    free = _two_free_ports()
    swarm = Swarm(topology("a", "b", node={"listen": f"127.0.0.1:{free}"}), tmp_path / "1")
    assert [file.node.listen for file in swarm.files.values()] == [f"127.0.0.1:{free}", f"127.0.0.1:{free + 1}"]


def test_speeds_are_relative_and_the_swarm_is_closed(tmp_path: Path) -> None:
    nodes = [{"name": "a", "device": "h100"}, {"name": "b", "device": "rtx3090"}]
    file = Topology.model_validate({"run": {"task": "digits", "steps": 1}, "nodes": nodes, "node": {"heartbeat": 1}})
    a, b = Swarm(file, tmp_path / "0").files.values()
    assert (a.node.speed, b.node.speed) == (1.0, 0.1)
    assert a.node.key == b.node.key != Swarm(file, tmp_path / "1").files["a"].node.key
    assert (a.node.slot, b.node.slot, b.node.heartbeat) == (0, 1, 1)


async def test_up_writes_summary_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = topology("a", "b", "c", expect={"alive": 3, "accuracy": ">= 0.8", "consensus": "<= 0.01"})
    assert await up(file, tmp_path) == 0
    result = json.loads((tmp_path / "summary.json").read_text())
    assert result["ok"]
    assert [item["got"] for item in result["expect"]] == [3, 0.9, pytest.approx(2e-4 / 3 / 1.01**2, rel=1e-3)]
    assert result["nodes"]["a"]["steps"] == 30
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "a" / FINAL).is_file()
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "a is up at" in shown


async def test_up_fails_when_an_expectation_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await up(topology("a", "crash", expect={"alive": 2}), tmp_path) == 1
    assert "out of luck" in capsys.readouterr().err
    result = json.loads((tmp_path / "summary.json").read_text())
    assert result["expect"] == [{"what": "alive", "want": "== 2", "got": 1, "ok": False}]


async def test_a_configuration_that_every_node_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^node.device: no such thing$"):
        await up(topology("refuse-a", "refuse-b"), tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_drains(number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = asyncio.create_task(up(topology("a", "b", steps=3000), tmp_path))
    await _until(lambda: "Stepped".lower() in _text(tmp_path / "events.jsonl"))
    os.kill(os.getpid(), number)
    assert await running == 130
    assert "leave in order" in capsys.readouterr().out
    result = json.loads((tmp_path / "summary.json").read_text())
    assert all(node["digest"] for node in result["nodes"].values())
    assert (tmp_path / "report.html").is_file()


async def test_a_second_interrupt_kills(tmp_path: Path) -> None:
    running = asyncio.create_task(up(topology("stubborn", steps=3000), tmp_path))
    await _until(lambda: "stepped" in _text(tmp_path / "events.jsonl"))
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)
    assert await asyncio.wait_for(running, 20) == 130  # it is not waited for
    assert not json.loads((tmp_path / "summary.json").read_text())["nodes"]["stubborn"]["alive"]


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - files tell nobody that they grew
            await asyncio.sleep(0.05)


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def test_a_topology_tells_no_key(tmp_path: Path) -> None:
    from node import resolve

    file = topology("a", node={"key": "very-secret"})
    assert "very-secret" not in resolve.dump(file)
    assert file.node["key"] == "very-secret"
    assert Swarm(file, tmp_path).files["a"].node.key == "very-secret"
    assert yaml.safe_load(resolve.dump(file))["nodes"][0]["name"] == "a"


def test_a_node_can_be_the_broker_of_all(tmp_path: Path) -> None:
    from node import resolve

    nodes = [{"name": "a"}, {"name": "b", "broker": "me:very-secret@0.0.0.0:0"}]
    file = Topology.model_validate({"name": "test", "run": {"task": "digits", "steps": 3}, "nodes": nodes})
    files = Swarm(file, tmp_path / "1").files
    assert files["a"].node.broker is None
    broker = files["b"].node.broker
    assert broker is not None
    port = broker.removeprefix("me:very-secret@0.0.0.0:")
    assert int(port) > 0
    assert {each.node.mqtt for each in files.values()} == {f"mqtt://me:very-secret@127.0.0.1:{port}"}
    assert "very-secret" not in resolve.dump(file)
    assert yaml.safe_load(resolve.dump(file))["nodes"][1]["broker"] == "me@0.0.0.0:0"
    other = Topology.model_validate({**file.model_dump(mode="json"), "node": {"mqtt": "mqtt://elsewhere"}})
    assert {each.node.mqtt for each in Swarm(other, tmp_path / "2").files.values()} == {"mqtt://elsewhere"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nodes[1]["broker"] = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"broker: {nodes[1]['broker']}: Address already in use"):
            Swarm(Topology.model_validate({**file.model_dump(mode="json"), "nodes": nodes}), tmp_path / "3")
    with pytest.raises(ConfigError, match="the image p2ptrain has no broker in it"):
        DockerSwarm(file, tmp_path / "4")
