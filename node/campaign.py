"""`p2ptrain sim FILE --seeds N`: campaigns on the screen. A seed that fails is shrunk, and printed as a command."""

import json
import os
import statistics
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from p2ptrain.errors import ConfigError
from p2ptrain.simulation.campaign import Mode, Outcome, draw, judge, keep, shrink
from p2ptrain.topology import Topology

OK, FAILED = 0, 1
MAX_SHRUNK = 3
"""So many failures are shrunk, which takes a few runs each."""


def run(topology: Topology, file: Path, seeds: range, mode: Mode, jobs: int, console: Console) -> int:
    """The exit code: 1 when an invariant did not hold."""
    begun, outcomes = time.perf_counter(), []
    with ProcessPoolExecutor(jobs, get_context("spawn"), _prepare) as pool:
        found = pool.map(partial(_trial, topology, mode), seeds, chunksize=2)
        for outcome in track(found, f"{len(seeds)} seeds", len(seeds), console=console, transient=True):
            outcomes.append(outcome)
            if outcome.failure:
                console.print(f"seed {outcome.seed}: {outcome.failure[:1000]}", markup=False, highlight=False)
    failed = [outcome for outcome in outcomes if outcome.failure]
    console.print(table(outcomes, time.perf_counter() - begun))
    for outcome in failed[:MAX_SHRUNK]:
        console.print(_replay(topology, file, outcome, mode), markup=False, highlight=False, soft_wrap=True)
    return FAILED if failed else OK


def replay(topology: Topology, seed: int, mode: Mode, kept: list[int] | None, calm: bool, console: Console) -> int:
    """One seed again, with these of its faults, step by step on the screen. Raises `ConfigError` for one that it has
    not."""
    trial = draw(topology, seed, mode)
    if kept is not None:
        num = len(trial.topology.faults)
        if unknown := [index for index in kept if index >= num]:
            raise ConfigError(f"--keep {unknown[0]}: there is no such fault, seed {seed} has {num} of them, from 0 on")
        trial = keep(trial, kept)
    trial = replace(trial, interference=trial.interference and not calm)
    for index, fault in enumerate(trial.topology.faults):
        console.print(f"fault {index}: {json.dumps(fault.model_dump(mode='json'))}", markup=False, highlight=False)
    outcome = judge(trial)
    console.print(table([outcome], 0.0))
    console.print(outcome.failure or "every invariant held", markup=False, highlight=False)
    return FAILED if outcome.failure else OK


def table(outcomes: list[Outcome], wall_s: float) -> Table:
    """What was tried and what it showed."""
    faults: Counter[str] = sum((outcome.faults for outcome in outcomes), Counter())
    noticed = [seconds for outcome in outcomes for seconds in outcome.noticed_s]
    healed = [seconds for outcome in outcomes for seconds in outcome.healed_s]
    recovered = [outcome.recovered_s for outcome in outcomes if outcome.recovered_s is not None]
    virtual_h = sum(outcome.virtual_s for outcome in outcomes) / 3600
    rows: dict[str, Any] = {
        "seeds": len(outcomes),
        "violations": sum(outcome.failure is not None for outcome in outcomes),
        "virtual hours": f"{virtual_h:.2f}",
        "wall seconds": f"{wall_s:.0f}",
        "events": sum(outcome.num_events for outcome in outcomes),
        "swaps applied": sum(outcome.num_exchanges for outcome in outcomes),
        "deaths noticed after": _spread(noticed),
        "all well again after": _spread(recovered),
        "restart to first swap": _spread(healed),
        **{f"fault: {kind}": count for kind, count in sorted(faults.items(), key=lambda item: -item[1])},
    }
    found = Table(show_header=False, box=None)
    for name, value in rows.items():
        found.add_row(name, str(value))
    return found


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    ordered = sorted(seconds)
    return f"median {statistics.median(ordered):.1f} s, 99 % {ordered[int(0.99 * (len(ordered) - 1))]:.1f} s"


def _replay(topology: Topology, file: Path, outcome: Outcome, mode: Mode) -> str:
    """The command that shows a failure again, with as few faults as can be."""
    trial = draw(topology, outcome.seed, mode)
    smallest = shrink(trial, lambda candidate: judge(candidate).failure is not None)
    kept = [index for index, fault in enumerate(trial.topology.faults) if fault in smallest.topology.faults]
    calm = "" if smallest.interference else " --calm"
    faults = ",".join(map(str, kept)) or "none"
    return f"replay: p2ptrain sim {file} --mode {mode} --seed {outcome.seed} --keep {faults}{calm}"


def _trial(topology: Topology, mode: Mode, seed: int) -> Outcome:
    return judge(draw(topology, seed, mode))


def _prepare() -> None:
    os.nice(5)  # a campaign fills the machine, and people use it meanwhile
