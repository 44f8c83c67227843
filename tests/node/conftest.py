"""A made-up run of four nodes, in which one dies and comes back: views, summary and report are tried on it."""

import math
import random

import pytest

from p2ptrain.telemetry import events
from p2ptrain.telemetry.events import Event, Stamped
from p2ptrain.telemetry.state import SwarmState, expecting, fold

NAMES = ("node-0", "node-1", "node-2", "node-3")
PEERS = tuple(f"{index:032x}" for index in range(1, 5))


def made_up_log(seconds: int = 60) -> list[Stamped]:
    rng = random.Random(0)
    log: list[Stamped] = []

    def emit(time: float, node: int, event: Event) -> None:
        log.append(Stamped(NAMES[node], time, event))

    for node in range(4):
        emit(1 + node / 10, node, events.Started(PEERS[node], node, "cpu", f"127.0.0.1:{4000 + node}", 208_000, False))
        for other in set(range(4)) - {node}:
            emit(2 + node / 10, node, events.Joined(PEERS[other], NAMES[other]))
    emit(2.5, 3, events.Fetched(0, 2, 832_000, 0.3))
    steps = [0.0] * 4
    for tick in range(30, seconds * 10):
        time = tick / 10
        for node in range(4):
            if node == 2 and 25 < time < 40:
                continue
            steps[node] += 2 / (1 + node)
            loss = 1.6 + 2 * math.exp(-time / 15) + rng.gauss(0, 0.15)
            emit(time, node, events.Stepped(int(steps[node]), loss, 0.05 * (1 + node)))
            if tick % 50 == 0:
                loss = 1.7 + 2 * math.exp(-time / 14) + 0.03 * node
                emit(
                    time, node, events.Evaluated(int(steps[node]), loss, 0.9 - 0.8 * math.exp(-time / 15) - 0.01 * node)
                )
            if rng.random() < 0.2:
                other = PEERS[(node + rng.randint(1, 3)) % 4]
                distance = 0.02 * math.exp(-time / 20) * rng.lognormvariate(0, 0.4)
                emit(time, node, events.Exchanged(other, 212_000, 212_000, 0.05, distance, True))
        if tick == 250:
            emit(time, 2, events.Died(-9))
            emit(time + 3, 0, events.Left(PEERS[2], NAMES[2], "silent"))
            emit(time + 0.5, 1, events.Failed(PEERS[2], "unreachable", True))
        if tick == 400:
            emit(time, 2, events.Restarted())
            emit(time + 1, 2, events.Started(PEERS[2], 2, "cpu", "127.0.0.1:4002", 208_000, False))
            emit(time + 1, 2, events.Resumed(180))
    emit(30.0, 0, events.Rejected("ff" * 16, "malformed", "frame of 12 bytes"))
    emit(31.0, 1, events.Noted("warning", "bootstrap 127.0.0.1:4000 does not answer"))
    for node in range(4):
        emit(seconds + 0.1 * node, node, events.Finished(int(steps[node])))
        emit(seconds + 1 + 0.1 * node, node, events.Stopped(int(steps[node]), f"{node:02x}" * 32))
    return sorted(log, key=lambda stamped: stamped.time)


@pytest.fixture(scope="session")
def log() -> list[Stamped]:
    return made_up_log()


@pytest.fixture(scope="session")
def state(log: list[Stamped]) -> SwarmState:
    return fold(log, expecting(NAMES))
