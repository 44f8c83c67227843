"""The process runtime: each node of a topology is a daemon of its own on this machine, reached over loopback.

`Swarm` is also what the process-level tests drive: real kills, real restarts.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from node import resolve
from p2ptrain.config import NodeFile
from p2ptrain.telemetry import sinks
from p2ptrain.telemetry.events import Died, Event, Noted, Restarted, Stamped, from_json
from p2ptrain.telemetry.state import SwarmState, apply, expecting
from p2ptrain.topology import Topology

MAX_LINE = 1 << 20
DRAIN_S = 25.0
"""From SIGTERM to SIGKILL."""
LINGER_S = 60.0
"""How long nodes may stay once the last of them has finished its training."""
CLEAN = (0, 130)
PROGRAM = (sys.executable, "-m", "node")
TAIL_LINES = 15
_HERE = Path(__file__).resolve().parent.parent
SOURCE_TREE = str(_HERE) if (_HERE / "pyproject.toml").is_file() else None
"""Where the daemons import us from when we are not installed."""

OnEvent = Callable[[Stamped, SwarmState], None]


@dataclass
class _Running:
    """One process and what reads from it."""

    process: asyncio.subprocess.Process
    leash: int
    """The writing end of its standard input: closing it tells the node to go."""
    asked: bool = False
    """It was told to stop, so its end is no surprise."""
    watcher: asyncio.Task[None] | None = None


class Swarm:
    """Daemon processes and the fold of what they say. Leaving `async with Swarm(...)` kills what still runs."""

    def __init__(self, topology: Topology, out: Path, on_event: OnEvent | None = None) -> None:
        """Finds what can be wrong, and takes the ports; raises `ConfigError`. Nothing is started yet."""
        self.topology, self.out = topology, out
        resolve.check(topology)
        self.files = self._node_files()
        resolve.prepare(out)
        self.state = expecting(self.files)
        self.epoch_unix_s = time.time()
        self._started = time.monotonic()
        self.on_event = on_event
        self._running: dict[str, _Running] = {}
        self._waiting: list[tuple[Callable[[SwarmState], bool], asyncio.Future[None]]] = []
        self._log: sinks.Lines | None = None

    async def __aenter__(self) -> "Swarm":
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def now(self) -> float:
        """Seconds of the run's clock."""
        return time.monotonic() - self._started

    @property
    def running(self) -> list[str]:
        """Names of the nodes whose process has not ended."""
        return [name for name, running in self._running.items() if running.process.returncode is None]

    def home(self, name: str) -> Path:
        return self.files[name].node.home

    def pid(self, name: str) -> int:
        return self._running[name].process.pid

    def log_tail(self, name: str) -> list[str]:
        """The last lines that the node wrote to standard error."""
        try:
            with (self.home(name) / "node.log").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
                return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        except OSError:
            return []

    async def start(self) -> None:
        resolve.save(self.out / "topology.yaml", self.topology)
        self._log = sinks.to_file(self.out / "events.jsonl")
        for name in self.files:
            await self._spawn(name, self.files[name])

    async def kill(self, name: str) -> None:
        """As a power cut: SIGKILL to the daemon and its helpers."""
        if name in self.running:
            self._kill([name])
        await self._ended(name)

    async def stop(self, name: str, timeout_s: float = DRAIN_S) -> None:
        """Ask the node to leave in order; kill it when it does not."""
        running = self._running[name]
        running.asked = True
        if running.process.returncode is None:
            running.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended(name)
        except TimeoutError:
            self._fold(name, Noted("error", f"did not stop within {timeout_s:g} s, killed"))
            await self.kill(name)

    async def restart(self, name: str) -> None:
        """A new process in the same home, after stopping one that still runs. It looks for the nodes that live now."""
        if name in self.running:
            await self.stop(name)
        others = [self._address(other) for other in self.running][:3]
        file = self.files[name]
        bootstrap = tuple(dict.fromkeys((*others, *file.node.bootstrap)))
        self._fold(name, Restarted())
        await self._spawn(name, resolve.with_node(file, bootstrap=bootstrap))

    async def wait(self, predicate: Callable[[SwarmState], bool], timeout_s: float) -> SwarmState:
        """Until the fold satisfies `predicate`; raises `TimeoutError` with where the nodes are."""
        reached = asyncio.get_running_loop().create_future()
        entry = (predicate, reached)
        if not predicate(self.state):
            self._waiting.append(entry)
            try:
                async with asyncio.timeout(timeout_s):
                    await reached
            except TimeoutError:
                where = ", ".join(f"{node.name} {node.phase} at step {node.step}" for node in self.state.nodes.values())
                raise TimeoutError(f"not within {timeout_s:g} s: {where}") from None
            finally:
                if entry in self._waiting:
                    self._waiting.remove(entry)
        return self.state

    async def finish(self) -> SwarmState:
        """Until every node has exited. Nodes that linger long after all are done are asked to leave."""
        while self.running:
            alive = [self.state.nodes[name] for name in self.running]
            over = all(node.phase in ("finished", "stopped") for node in alive)
            await self._any_ended(LINGER_S if over else 1.0)
            if over and len(self.running) == len(alive):
                await self.drain()
        await self._reap()
        return self.state

    async def drain(self) -> None:
        """Ask all nodes to leave in order, wait for a bounded time, kill the rest."""
        async with asyncio.TaskGroup() as group:
            for name in self.running:
                group.create_task(self.stop(name))

    def kill_all(self) -> None:
        """At once; `finish` or `close` waits for the ends."""
        for name in self.running:
            self._running[name].asked = True
        self._kill(self.running)

    async def close(self) -> None:
        """Nothing survives this: kill what runs, reap it, and write the log to its end."""
        self.kill_all()
        try:
            await self._reap()
        finally:
            if self._log:
                await asyncio.to_thread(self._log.close)

    # What follows is different for nodes that are not plain processes of this machine.

    def _node_files(self) -> dict[str, NodeFile]:
        """Raises `ConfigError`."""
        return resolve.node_files(self.topology, self.out)

    def _address(self, name: str) -> str:
        """Where others reach the node."""
        return self.files[name].node.listen

    def _command(self, name: str, arguments: list[str]) -> list[str]:
        """A process that is the node, or stands for it: its pipes, its end, and how it takes SIGTERM."""
        return [*PROGRAM, *arguments]

    def _kill(self, names: list[str]) -> None:
        """As a power cut, at once; nobody waits for the ends here."""
        for name in names:
            _signal_group(self.pid(name), signal.SIGKILL)

    def _exit_code(self, code: int) -> int:
        """The node's own, negative for a signal, from its process's."""
        return code

    async def _spawn(self, name: str, file: NodeFile) -> None:
        home = self.home(name)
        home.mkdir(parents=True, exist_ok=True)
        (home / "final.safetensors").unlink(missing_ok=True)
        resolve.save(home / "node.yaml", file)
        arguments = ["node", "--config", str(home / "node.yaml"), "--json", "--leash"]
        command = self._command(name, [*arguments, "--epoch", f"{self.epoch_unix_s:.6f}"])
        path = os.pathsep.join(part for part in (SOURCE_TREE, os.environ.get("PYTHONPATH")) if part)
        # Own pipes rather than subprocess.PIPE: asyncio's `wait` would also wait for helpers that hold an end of them.
        stdin, leash = os.pipe()
        events, stdout = os.pipe()
        try:
            with (home / "node.log").open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=stdin, stdout=stdout, stderr=log, start_new_session=True,
                    env={**os.environ, "PYTHONPATH": path},
                )  # fmt: skip
        except BaseException:
            os.close(leash)
            os.close(events)
            raise
        finally:
            os.close(stdin)
            os.close(stdout)
        self._running[name] = running = _Running(process, leash)
        running.watcher = asyncio.create_task(self._watch(name, running, events))

    async def _watch(self, name: str, running: _Running, events: int) -> None:
        """Fold what the node says until its process has ended, and then how it ended."""
        reader = asyncio.create_task(self._read(name, events))
        reader.add_done_callback(self._read_ended)
        code = self._exit_code(await running.process.wait())
        _signal_group(running.process.pid, signal.SIGKILL)  # helpers that outlived their daemon
        os.close(running.leash)
        done, late = await asyncio.wait([reader], timeout=5.0)
        for task in late:
            task.cancel()
        for task in done:
            task.result()
        in_order = running.asked or self.state.nodes[name].phase == "stopped"
        if code not in CLEAN or not in_order:
            self._fold(name, Died(code))
            if code > 0 and (tail := self.log_tail(name)):
                self._fold(name, Noted("error", tail[-1][:500]))

    def _read_ended(self, reader: asyncio.Task[None]) -> None:
        """A bug in what folds or shows the events must not leave a swarm running unseen."""
        if not reader.cancelled() and reader.exception():
            self.kill_all()

    async def _read(self, name: str, events: int) -> None:
        reader = asyncio.StreamReader(limit=MAX_LINE)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(events, "rb")
        )
        try:
            while True:
                try:
                    line = await reader.readline()
                except ValueError:  # longer than MAX_LINE: the reader has thrown it away
                    continue
                if not line:
                    return
                self._line(name, line)
        finally:
            transport.close()

    def _line(self, name: str, line: bytes) -> None:
        try:
            stamped = from_json(line.decode())
        except ValueError:  # something else that a library printed
            with (self.home(name) / "node.log").open("ab") as log:
                log.write(line)
            return
        self._take(replace(stamped, node=name))

    def _fold(self, name: str, event: Event) -> None:
        self._take(Stamped(name, self.now, event))

    def _take(self, stamped: Stamped) -> None:
        self.state = apply(self.state, stamped)
        if self._log:
            self._log.write(stamped)
        if self.on_event:
            self.on_event(stamped, self.state)
        for predicate, reached in self._waiting:
            if not reached.done() and predicate(self.state):
                reached.set_result(None)

    async def _ended(self, name: str) -> None:
        """Until the process is reaped and its last words are folded."""
        watcher = self._running[name].watcher
        if watcher:
            await asyncio.shield(watcher)

    async def _reap(self) -> None:
        """Until all processes are gone; raises what went wrong while they were watched."""
        watchers = [running.watcher for running in self._running.values() if running.watcher]
        if watchers:
            await asyncio.wait(watchers)
        for watcher in watchers:
            watcher.result()

    async def _any_ended(self, timeout_s: float) -> None:
        watchers = [watcher for name in self.running if (watcher := self._running[name].watcher)]
        if watchers:
            await asyncio.wait(watchers, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


def _signal_group(pid: int, number: signal.Signals) -> None:
    """To a daemon and its helpers: each daemon leads a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: a group of which only zombies are left
        os.killpg(pid, number)
