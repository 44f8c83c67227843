"""`p2ptrain up --runtime docker`: containers that train, die, come back, and are cut off from each other."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import docker, left_over, until

from node.docker import DockerSwarm, cpu_limits
from node.docker_engine import LABEL
from p2ptrain.telemetry.events import Exchanged, Stamped
from p2ptrain.telemetry.state import SwarmState
from p2ptrain.topology import Topology
from p2ptrain.topology.links import Link
from p2ptrain.training import tasks

ROOT = Path(__file__).resolve().parents[2]
START_S = 150.0
"""For containers to come up on a busy machine."""

pytestmark = pytest.mark.timeout(400)


def topology(count: int, **more: Any) -> Topology:
    run = {"task": "digits", "seconds": 3600, "strategy": {"name": "gossip", "rate": 0.2}}
    node = {"heartbeat": 1, "checkpoint_every": 2}
    return Topology.model_validate({"name": "test", "run": run, "nodes": [{"count": count}], "node": node, **more})


def whole(names: Iterable[str]) -> Callable[[SwarmState], bool]:
    """Each of these sees all others of these, and nobody else."""

    def is_whole(state: SwarmState) -> bool:
        nodes = [state.nodes[name] for name in names]
        peers = {node.peer for node in nodes}
        return all(node.peer and node.peers == peers - {node.peer} for node in nodes)

    names = list(names)
    return is_whole


def swapping(state: SwarmState, names: Iterable[str], num: int = 3) -> Callable[[SwarmState], bool]:
    """Each of these has made so many more swaps than in `state`."""
    goals = {name: state.nodes[name].exchanges + num for name in names}
    return lambda state: all(state.nodes[name].exchanges >= goal for name, goal in goals.items())


def test_cpus_are_shared_out_by_speed_and_none_gets_more_than_it_can_use() -> None:
    assert cpu_limits([1.0, 0.5, 0.1], threads=1, num_cpus=16) == [1.0, 0.5, 0.1]
    assert cpu_limits([1.0, 0.5, 0.5], threads=1, num_cpus=1) == [0.5, 0.25, 0.25]


async def test_a_killed_container_is_missed_and_comes_back(tmp_path: Path) -> None:
    async with DockerSwarm(topology(3), tmp_path) as swarm:
        *others, victim = swarm.files
        await swarm.wait(whole(swarm.files), START_S)
        await swarm.wait(swapping(swarm.state, swarm.files), 60)
        assert set(docker("top", swarm.container(victim), "-eo", "pid,uid").split()[3::2]) == {"10001"}
        await swarm.kill(victim)
        assert swarm.state.nodes[victim].exit_code == -9
        await swarm.wait(whole(others), 20)
        await swarm.wait(swapping(swarm.state, others), 60)
        await swarm.restart(victim)
        await swarm.wait(whole(swarm.files), START_S)
        await swarm.wait(swapping(swarm.state, [victim]), 60)
        await swarm.drain()
        assert {node.phase for node in swarm.state.nodes.values()} == {"stopped"}
    assert left_over() == ""


SITES = [{"count": 2, "site": "eu"}, {"count": 2, "site": "us"}]


async def test_a_partition_makes_two_swarms_and_healing_one_again(tmp_path: Path) -> None:
    async with DockerSwarm(topology(4, nodes=SITES), tmp_path) as swarm:
        names = list(swarm.files)
        here, there = names[:2], names[2:]
        across = [pair for a in here for b in there for pair in ((a, b), (b, a))]
        await swarm.wait(whole(names), START_S)
        eu, us, between = [f"{swarm.container('')}{suffix}" for suffix in ("eu", "us", "between-sites")]
        assert [networks(swarm.container(name)) for name in names] == [{eu, between}] * 2 + [{us, between}] * 2
        assert {reach(swarm, "node-0", name) for name in names[1:]} == {"reached"}
        await swarm.shape(dict.fromkeys(across, Link(down=True)))
        assert [reach(swarm, "node-0", name) for name in names[1:]] == ["reached", "silence", "silence"]
        await swarm.wait(lambda state: whole(here)(state) and whole(there)(state), 30)
        await swarm.wait(swapping(swarm.state, names), 60)
        await swarm.shape(dict.fromkeys(across, Link()))
        await swarm.wait(whole(names), 60)
        await swarm.wait(swapping(swarm.state, names), 60)
    assert left_over() == ""


def networks(container: str) -> set[str]:
    template = "{{range $name, $network := .NetworkSettings.Networks}}{{$name}} {{end}}"
    return set(docker("inspect", "--format", template, container).split())


def reach(swarm: DockerSwarm, one: str, other: str) -> str:
    """What one gets to hear when it connects to the other."""
    return docker("exec", swarm.container(one), "python", "-c", CONNECT, *swarm.files[other].node.announce)


CONNECT = """
import socket, sys
host, port = sys.argv[1].split(":")
try:
    socket.create_connection((host, int(port)), timeout=2).close()
    print("reached")
except TimeoutError:
    print("silence")
"""


async def test_links_are_as_slow_as_the_file_says_until_they_change(tmp_path: Path) -> None:
    file = topology(2, links={"default": {"bandwidth": "1mbit", "latency": "20ms"}})
    file = file.model_copy(update={"run": file.run.model_copy(update={"task": tasks.make("charlm", size="0.2M")})})
    seconds: list[float] = []

    def remember(stamped: Stamped, state: SwarmState) -> None:
        if isinstance(stamped.event, Exchanged):
            seconds.append(stamped.event.seconds)

    async with DockerSwarm(file, tmp_path, remember) as swarm:
        await swarm.wait(lambda _: len(seconds) >= 4, START_S)
        slow = min(seconds)
        assert slow > 195_000 * 8 / 1e6  # seconds for a byte of each parameter
        await swarm.shape({("node-0", "node-1"): Link(), ("node-1", "node-0"): Link()})
        seconds.clear()
        await swarm.wait(lambda _: len(seconds) >= 8, 60)
        assert min(seconds) < slow / 3
        told = [note.message for note in swarm.state.notes if "netem" in note.message]
        assert len(told) == (0 if has_netem() else 1)


def has_netem() -> bool:
    network = ["--network", "none", "--cap-add", "NET_ADMIN", "--user", "root", "--entrypoint", "tc"]
    command = ["docker", "run", "--rm", *network, "p2ptrain", "qdisc", "add", "dev", "lo", "root", "netem"]
    return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0


async def test_a_node_has_the_cpus_and_the_memory_of_its_device(tmp_path: Path) -> None:
    devices = [{"name": "fast", "device": "a100"}, {"name": "slow", "device": "rtx3090"}]
    async with DockerSwarm(topology(2, nodes=devices), tmp_path) as swarm:
        await swarm.wait(whole(swarm.files), START_S)
        await swarm.wait(swapping(swarm.state, swarm.files), 60)
        limits = "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}"
        found = [docker("inspect", "--format", limits, swarm.container(name)).split() for name in swarm.files]
    (fast_cpus, fast_bytes), (slow_cpus, slow_bytes) = [(int(cpus), int(size)) for cpus, size in found]
    assert slow_cpus == pytest.approx(fast_cpus / 4, rel=0.05)  # 80 and 20 TFLOP/s
    assert (fast_bytes, slow_bytes) == (80 << 30, 24 << 30)


async def test_a_paused_container_stands_still(tmp_path: Path) -> None:
    async with DockerSwarm(topology(2), tmp_path) as swarm:
        going, paused = swarm.files
        await swarm.wait(whole(swarm.files), START_S)
        await swarm.pause(paused)
        assert docker("inspect", "--format", "{{.State.Paused}}", swarm.container(paused)) == "true"
        await swarm.wait(whole([going]), 20)
        await swarm.shape({(going, paused): Link(down=True)})
        await swarm.resume(paused)
        assert reach(swarm, going, paused) == "silence"
        await swarm.shape({(going, paused): Link()})
        await swarm.wait(whole(swarm.files), 60)
        await swarm.pause(paused)
        await swarm.stop(paused)
        assert swarm.state.nodes[paused].phase == "stopped"
        await swarm.pause(going)
    assert left_over() == ""


async def test_a_node_is_told_to_tear_its_checkpoint_and_to_set_its_clock_wrong(tmp_path: Path) -> None:
    def skewed(since: int) -> Callable[[SwarmState], bool]:
        return lambda state: any("the clock of" in note.message for note in state.notes[since:])

    async with DockerSwarm(topology(2), tmp_path) as swarm:
        victim = "node-1"
        await swarm.wait(whole(swarm.files), START_S)
        await swarm.wait(swapping(swarm.state, [victim]), 60)  # so that there is something to write
        await swarm.tear(victim)
        assert swarm.state.nodes[victim].exit_code == -9
        assert not any("torn" in note.message for note in swarm.state.notes)
        await swarm.start(victim)
        await swarm.wait(whole(swarm.files), START_S)
        await swarm.skew(victim, 5.0)
        await swarm.wait(skewed(0), 30)
        num_notes = len(swarm.state.notes)
        await swarm.restart(victim)
        await swarm.wait(skewed(num_notes), START_S)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`p2ptrain up` in a process of its own, whose two nodes would go on for ever and train by now."""
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(json.loads(topology(2).model_dump_json(exclude={"expect"}))))
    command = ["up", str(tmp_path / "two.yaml"), "--runtime", "docker", "--out", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-m", "node", *command], cwd=ROOT, stdout=subprocess.DEVNULL)
    log = tmp_path / "out" / "events.jsonl"
    until(lambda: log.exists() and log.read_text().count('"exchanged"') >= 2, START_S, "training")
    yield process
    process.kill()
    process.wait()


def test_an_interrupted_run_drains_and_leaves_nothing(launcher: subprocess.Popen[bytes], tmp_path: Path) -> None:
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(60) == 130
    assert left_over() == ""
    assert (tmp_path / "out" / "node-1" / "final.safetensors").stat().st_size > 0


async def test_nodes_leave_when_their_launcher_is_killed_and_the_next_one_cleans_up(
    launcher: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    launcher.kill()
    launcher.wait()
    until(lambda: docker("ps", "--quiet", "--filter", f"label={LABEL}") == "", 60, "gone")
    assert left_over() != ""
    async with DockerSwarm(topology(1), tmp_path / "next"):
        pass
    assert left_over() == ""
