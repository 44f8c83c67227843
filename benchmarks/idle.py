"""What an idle node costs in memory, what the parts of it cost, and how soon a node contributes after its start.

    python -m benchmarks.idle [--json FILE] [--repeats N]

Real daemons, as `p2ptrain node --task charlm` starts them, with the DHT on. `before its first step`: the node looks for
a swarm that is not there; everything is set up. `nearly asleep`: it has evaluated and taken a step, and `speed: 0.01`
has it wait for most of the time. `p2pd`, the DHT's own process, is counted apart. RSS counts the pages of shared
libraries in full; USS counts only what nobody else uses.

Imports are measured in a process that does nothing but import, in the order of the table.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psutil

from benchmarks import common

ALLOWED_MB, ALLOWED_S = 60.0, 10.0
DEADLINE_S = 45.0
SETTLED_S = 3.0
TASK = ("--task", "charlm", "--set", "run.task.size=0.2M", "--set", "run.seconds=600")

IMPORTS = {
    "Python": "",
    "torch": "import torch",
    "p2ptrain.config (pydantic, tasks, codecs)": "import p2ptrain.config",
    "grpc.aio": "import grpc.aio",
    "cryptography": "import p2ptrain.network.tls",
    "node.cli, node.single (typer, rich)": "import node.cli, node.single",
    "hivemind's DHT": "from p2ptrain.network import hivemind_part; hivemind_part.load()",
    "node.machine, the rest": "import node.machine",
    "an optimizer": "optimizer = torch.optim.AdamW([weights := torch.zeros(9, requires_grad=True)])",
    "its first step": "weights.sum().backward(); optimizer.step()",
}
PROBE = """
import gc, time
def probe():
    done = time.perf_counter()
    gc.collect()
    rows = dict(line.split()[:2] for line in open("/proc/self/smaps_rollup").readlines()[1:])
    print(int(rows["Rss:"]), int(rows["Private_Dirty:"]) + int(rows["Private_Clean:"]), done, time.perf_counter())
"""


class Memory(NamedTuple):
    """Of one process."""

    rss_mb: float
    uss_mb: float


class Daemon:
    """A node's process and its events, timed at their arrival here."""

    def __init__(self, home: Path, *options: str) -> None:
        self.begin_s = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "node", "node", "--json", "--home", str(home), *TASK, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._watchdog = threading.Timer(DEADLINE_S, os.killpg, (self._process.pid, signal.SIGKILL))
        self._watchdog.start()

    def first(self, *kinds: str) -> dict[str, tuple[float, dict[str, Any]]]:
        """The next event of each kind, with the seconds from the process's start."""
        found: dict[str, tuple[float, dict[str, Any]]] = {}
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] in kinds:
                found.setdefault(event["event"], (time.monotonic() - self.begin_s, event))
                if len(found) == len(kinds):
                    return found
        raise SystemExit(f"a node ended or took over {DEADLINE_S:g} s; of {kinds} it said {list(found)}")

    def memory(self) -> tuple[Memory, Memory]:
        """The daemon's and its p2pd's."""
        process = psutil.Process(self._process.pid)
        helpers = [_memory(child) for child in process.children(recursive=True)]
        return _memory(process), Memory(*map(sum, zip(*helpers, strict=True))) if helpers else Memory(0.0, 0.0)

    def end(self) -> None:
        self._watchdog.cancel()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()


@contextmanager
def daemon(home: Path, *options: str) -> Iterator[Daemon]:
    node = Daemon(home, *options)
    try:
        yield node
    finally:
        node.end()


def _memory(process: psutil.Process) -> Memory:
    info = process.memory_full_info()
    return Memory(info.rss / 1e6, info.uss / 1e6)


def imports() -> list[tuple[Memory, float]]:
    """(memory so far, seconds of this one) after each of `IMPORTS`."""
    script = "\nprobe()\n".join([PROBE, *IMPORTS.values(), ""])
    command = [sys.executable, "-W", "ignore", "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True).stdout
    numbers = [[float(word) for word in line.split()] for line in output.splitlines()]
    return [
        (Memory(rss * 1.024e-3, uss * 1.024e-3), done - begun) for (*_, begun), (rss, uss, done, _) in pairwise(numbers)
    ]


class Results:
    """Numbers by name, one of each round."""

    def __init__(self) -> None:
        self.all: dict[str, list[tuple[float, ...]]] = {}

    def add(self, name: str, *numbers: float) -> None:
        self.all.setdefault(name, []).append(numbers)

    def median(self, name: str) -> tuple[float, ...]:
        return tuple(statistics.median(column) for column in zip(*self.all[name], strict=True))


BARE, STEPPED = "torch imported", "torch imported, one optimizer step"
STARTING, ASLEEP, SWARM = "node before its first step", "node nearly asleep", "node training in a swarm of two"
MILESTONES = {"started": "serves calls", "stepped": "first own step", "exchanged": "first swap done"}


def measure(repeats: int) -> Results:
    results = Results()
    for _ in range(repeats):
        for name, (memory, seconds) in zip(IMPORTS, imports(), strict=True):
            results.add(f"import {name}", *memory, seconds)
        _measure_alone(results)
        _measure_pair(results)
    return results


def _measure_alone(results: Results) -> None:
    with TemporaryDirectory() as folder:
        with daemon(Path(folder) / "a", "--bootstrap", "127.0.0.1:9") as node:
            node.first("started")
            time.sleep(SETTLED_S)
            own, helper = node.memory()
            results.add(STARTING, *own)
            results.add(f"p2pd of a {STARTING}", *helper)
        with daemon(Path(folder) / "b", "--set", "node.speed=0.01") as node:
            node.first("evaluated")  # the first step comes next; it is reported once its hundredfold time is over
            time.sleep(2 * SETTLED_S)
            own, helper = node.memory()
            results.add(ASLEEP, *own)
            results.add(f"p2pd of a {ASLEEP}", *helper)


def _measure_pair(results: Results) -> None:
    """One that is there, mostly asleep, and one that joins; the memory is the joiner's."""
    with TemporaryDirectory() as folder, daemon(Path(folder) / "a", "--set", "node.speed=0.05") as first:
        _, started = first.first("started", "stepped")["started"]
        options = ["--bootstrap", started["address"], "--set", "node.slot=1", "--name", "joiner"]
        with daemon(Path(folder) / "b", *options) as joiner:
            events = joiner.first(*MILESTONES)
            for kind, name in MILESTONES.items():
                results.add(name, events[kind][0])
            time.sleep(SETTLED_S)
            own, helper = joiner.memory()
            results.add(SWARM, *own)
            results.add(f"p2pd of a {SWARM}", *helper)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.set_defaults(repeats=3)
    args = parser.parse_args()
    results = measure(args.repeats)
    names = list(IMPORTS)
    rows, before = [], (0.0, 0.0, 0.0)
    for name in names:
        now = results.median(f"import {name}")
        rows.append((name, now[0], now[0] - before[0], now[1] - before[1], now[2]))
        before = now
    common.table("Imports, one after the other", ["import", "RSS MB", "adds MB", "adds USS MB", "takes s"], rows)

    reference = results.median("import torch")
    before, after = (results.median(f"import {name}") for name in ("node.machine, the rest", "its first step"))
    rows = [
        (BARE, *reference[:2], 0.0),
        (STEPPED, *(reference[i] + after[i] - before[i] for i in (0, 1)), after[0] - before[0]),
    ]
    for name in (STARTING, ASLEEP, SWARM):
        rss, uss = results.median(name)
        rows.append((name, rss, uss, rss - reference[0]))
    rows += [(f"p2pd of a {name}", *results.median(f"p2pd of a {name}"), None) for name in (STARTING, ASLEEP, SWARM)]
    columns = ["process", "RSS MB", "USS MB", "above torch, RSS MB"]
    common.table(f"Memory of a node with charlm 0.2M, {args.repeats} rounds", columns, rows)
    rows = [(name, *results.median(name), max(results.all[name])[0]) for name in MILESTONES.values()]
    common.table("A node joins a swarm of one: seconds from the process's start", ["", "median", "slowest"], rows)

    for name in (STARTING, ASLEEP):
        above = results.median(name)[0] - reference[0]
        print(f"{name}: {above:.0f} MB above a process that has imported torch (allowed {ALLOWED_MB:g})")
    print(f"contributed {results.median(MILESTONES['exchanged'])[0]:.1f} s after its start (allowed {ALLOWED_S:g})")
    common.write_json(args.json, {"cpus": os.cpu_count(), "results": results.all})


if __name__ == "__main__":
    main()
