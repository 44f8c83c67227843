"""`p2ptrain up`: a swarm from its first to its last breath, then summary, report and verdict."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from rich.console import Console

from node import live, report, resolve, summary
from node.docker import DockerSwarm
from node.launcher import Swarm
from p2ptrain.daemon import FINAL
from p2ptrain.errors import ConfigError
from p2ptrain.telemetry.state import SwarmState, describe_exit
from p2ptrain.topology import Topology

OK, FAILED, INTERRUPTED = 0, 1, 130
TICK_S = 0.25
RUNTIMES: dict[str, type[Swarm]] = {"process": Swarm, "docker": DockerSwarm}


def terminal() -> Console:
    """Standard output; wide enough for tables where nobody says how wide it is."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)


async def up(topology: Topology, out: Path, console: Console | None = None, runtime: str = "process") -> int:
    """Returns the exit code; raises `ConfigError` before anything is started, or when no node could start for one."""
    console = console or terminal()
    swarm = RUNTIMES[runtime](topology, out)
    view = live.view(live.Run(topology.name, topology.run.steps, topology.run.seconds), console)
    swarm.on_event = view.event
    try:
        view.say(f"{topology.name}: {topology.num_nodes} nodes, everything in {out}")
        interrupted = await _run(swarm, view)
    finally:
        view.close()
    return _conclude(swarm, runtime, out, console, interrupted)


async def _run(swarm: Swarm, view: live.View) -> bool:
    """True when it was interrupted and drained."""
    async with _signals(swarm, view) as interrupt, swarm, ticking(lambda: view.refresh(swarm.state, swarm.now)):
        finish, stop = asyncio.create_task(swarm.finish()), asyncio.create_task(interrupt.wait())
        try:
            await asyncio.wait([finish, stop], return_when=asyncio.FIRST_COMPLETED)
            if interrupt.is_set():
                await swarm.drain()
            await finish
        finally:
            finish.cancel()
            stop.cancel()
        return interrupt.is_set()


@contextlib.asynccontextmanager
async def _signals(swarm: Swarm, view: live.View) -> AsyncIterator[asyncio.Event]:
    """The first SIGINT or SIGTERM sets the event, the second kills."""
    interrupt, loop = asyncio.Event(), asyncio.get_running_loop()

    def interrupted() -> None:
        if interrupt.is_set():
            view.say("Killing the nodes.", "red")
            swarm.kill_all()
        else:
            view.say("Stopping: the nodes leave in order. Press Ctrl-C again to kill them.", "yellow")
            interrupt.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, interrupted)
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextlib.asynccontextmanager
async def ticking(refresh: Callable[[], None]) -> AsyncIterator[None]:
    """Call `refresh` all the time meanwhile."""

    async def tick() -> None:
        while True:
            refresh()
            await asyncio.sleep(TICK_S)

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _conclude(swarm: Swarm, runtime: str, out: Path, console: Console, interrupted: bool) -> int:
    """Write and show the outcome."""
    state, topology = swarm.state, swarm.topology
    _complain(swarm, state)
    living = [name for name, node in state.nodes.items() if node.alive and name not in topology.attackers]
    spread = summary.consensus(swarm.home(name) / FINAL for name in living)
    result = summary.build(topology, state, swarm.now, spread, runtime)
    summary.save(out / "summary.json", result)
    report.write(out / "report.html", state, result, resolve.dump(topology))
    summary.show(console, result, state)
    console.print(f"report: {out / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    return INTERRUPTED if interrupted else OK if result["ok"] else FAILED


def _complain(swarm: Swarm, state: SwarmState) -> None:
    """Show the last words of the nodes that failed. When all refused their configuration, it is the user's to mend."""
    failed = [node for node in state.nodes.values() if not node.alive and (node.exit_code or 0) > 0]
    if failed and all(node.exit_code == 2 and node.started is None for node in state.nodes.values()):
        raise ConfigError((swarm.log_tail(failed[0].name) or ["no node could start"])[-1].removeprefix("p2ptrain: "))
    alike: dict[str, list[str]] = {}
    for node in failed:
        last_lines = "".join(f"  {line}\n" for line in swarm.log_tail(node.name))
        alike.setdefault(f"{describe_exit(node.exit_code or 0)}; the last lines:\n{last_lines}", []).append(node.name)
    for words, names in alike.items():
        print(f"{', '.join(names)}: {words}", end="", file=sys.stderr)
