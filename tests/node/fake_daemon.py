"""Stands in for a daemon in the launcher's tests: the same command line and events, but no swarm.

The node's name says how it behaves.
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import yaml
from safetensors.numpy import save_file

from node.leash import Orders, die, hold
from p2ptrain.telemetry import events, sinks

stopping = False


def main() -> None:
    arguments = sys.argv[1:]
    body = yaml.safe_load(Path(arguments[arguments.index("--config") + 1]).read_text())
    name, home, slot = body["node"]["name"], Path(body["node"]["home"]), body["node"]["slot"]
    if "refuse" in name:
        print("p2ptrain: node.device: no such thing", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in name else stop)
    orders = hold()
    if "slow" in name:
        time.sleep(1)
    lines = sinks.to_stdout()
    emit = sinks.Stamp(name, float(arguments[arguments.index("--epoch") + 1]), lines).emit
    peer = hashlib.sha256(name.encode()).hexdigest()[:32]
    emit(events.Started(peer, slot, "cpu", body["node"]["listen"], 100, False))
    if "chatty" in name:
        print("not an event", flush=True)
        print("x" * (2 << 20), flush=True)
    if "helper" in name:
        subprocess.Popen(["sleep", "300"])
    step = train(body["run"]["steps"], emit, orders, crash="crash" in name)
    while "linger" in name and not stopping:
        time.sleep(0.01)
    save_file({"flat": np.full(100, 1 + slot / 100, dtype=np.float32)}, home / "final.safetensors")
    emit(events.Stopped(step, "ab" * 32))
    lines.close()
    os._exit(0)


def train(steps: int, emit: Callable[[events.Event], None], orders: Orders, crash: bool) -> int:
    step, skew_s = 0, 0.0
    while step < steps and not stopping:
        if orders.tear:
            die()
        if orders.skew_s != skew_s:
            skew_s = orders.skew_s
            emit(events.Noted("info", f"skew {skew_s:g}"))
        step += 1
        emit(events.Stepped(step, 1 / step, 0.01))
        if step % 10 == 0:
            emit(events.Evaluated(step, 1 / step, 0.9))
        if crash and step == 5:
            raise RuntimeError("out of luck")
        time.sleep(0.01)
    emit(events.Finished(step))
    return step


def stop(number: int, frame: FrameType | None) -> None:
    global stopping
    stopping = True


main()
