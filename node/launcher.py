"""The process runtime: each node of a topology is a daemon of its own on this machine, reached over loopback.

`Swarm` is also what the process-level tests drive: real kills, real restarts, real links through `node.fault_proxy`.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from node import resolve
from node.fault_proxy import FaultProxy
from node.process import Process
from p2ptrain.config import NodeFile
from p2ptrain.faults import carry_out
from p2ptrain.telemetry import sinks
from p2ptrain.telemetry.events import Died, Event, Noted, Restarted, Stamped, from_json
from p2ptrain.telemetry.state import SwarmState, apply, expecting
from p2ptrain.topology import Topology
from p2ptrain.topology.links import Link, Pair

DRAIN_S = 25.0
"""From SIGTERM to SIGKILL."""
START_S = 180.0
"""How long the file's faults wait for all nodes to train."""
LINGER_S = 60.0
"""How long nodes may stay once the last of them has finished its training."""
CLEAN = (0, 130)
PROGRAM = (sys.executable, "-m", "node")
TAIL_LINES = 15
DROPPED_MAX = 5
"""So many faults that came too late are named."""
_HERE = Path(__file__).resolve().parent.parent
SOURCE_TREE = str(_HERE) if (_HERE / "pyproject.toml").is_file() else None
"""Where the daemons import us from when we are not installed."""

OnEvent = Callable[[Stamped, SwarmState], None]


class Swarm:
    """Daemon processes, what befalls them, and the fold of what they say. Implements `p2ptrain.faults.Runtime`.

    Leaving `async with Swarm(...)` kills what still runs."""

    def __init__(self, topology: Topology, out: Path, on_event: OnEvent | None = None) -> None:
        """Finds what can be wrong, and takes the ports; raises `ConfigError`. Nothing is started yet."""
        self.topology, self.out = topology, out
        resolve.check(topology)
        resolve.check_real(topology)
        self.files = self._node_files()
        resolve.prepare(out)
        self.state = expecting(self.files)
        self.epoch_unix_s = time.time()
        self._started = time.monotonic()
        self.on_event = on_event
        self._processes: dict[str, Process] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._waiting: list[tuple[Callable[[SwarmState], bool], asyncio.Future[None]]] = []
        self._log: sinks.Lines | None = None
        self._proxy: FaultProxy | None = None
        self._skews: dict[str, float] = {}
        self._late = {name: group.starts for name, group in topology.members() if group.starts > 0}
        """Who is to be started for the first time, and when."""
        self._ahead = deque(topology.plan())
        self._due: set[str] = set()
        """Whose start, one of the faults, has come, but is not yet done."""
        self._turns = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self._faults: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Swarm":
        try:
            await self.bring_up()
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
        return [name for name, process in self._processes.items() if process.runs]

    def home(self, name: str) -> Path:
        return self.files[name].node.home

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def log_tail(self, name: str) -> list[str]:
        """The last lines that the node wrote to standard error."""
        try:
            with (self.home(name) / "node.log").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
                return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        except OSError:
            return []

    async def bring_up(self) -> None:
        """All but the late ones; from now on, the faults of the topology come at their times."""
        resolve.save(self.out / "topology.yaml", self.topology)
        self._log = sinks.to_file(self.out / "events.jsonl")
        await self._prepare_links()
        for name, file in self.files.items():
            if name not in self._late:
                await self._spawn(name, file)
        self._faults = asyncio.create_task(self._run_faults())
        self._faults.add_done_callback(self._task_ended)

    async def _run_faults(self) -> None:
        begun = await self._until_all_train()

        async def start_late(name: str, at: float) -> None:
            await asyncio.sleep(begun + at - self.now)
            await self.start(name)

        async with asyncio.TaskGroup() as group:
            for name, at in self._late.items():
                group.create_task(start_late(name, at))
            await carry_out(self.topology, self, lambda: self.now - begun, self._begin)

    async def _until_all_train(self) -> float:
        """When the file's times begin to count: what a machine needs to get so far is no part of the scenario. If
        something is due at 0, that is part of it, and they count from the first start."""
        if any(deed.at == 0 for deed in self._ahead):
            return 0.0
        early = self.files.keys() - self._late.keys()

        def under_way(state: SwarmState) -> bool:
            nodes = (state.nodes[name] for name in early)
            return all(node.training_since is not None or node.phase == "dead" for node in nodes)

        with contextlib.suppress(TimeoutError):
            await self.wait(under_way, START_S)
        return self.now

    def _begin(self, event: Event) -> None:
        deed = self._ahead.popleft()  # `carry_out` takes them from the same plan, in the same order
        if deed.verb == "start":
            self._due.update(deed.nodes)
        self._fold("", event)

    async def kill(self, name: str) -> None:
        """As a power cut: SIGKILL to the daemon and its helpers."""
        if name in self.running:
            self._kill([name])
        await self._ended(name)

    async def stop(self, name: str, timeout_s: float = DRAIN_S) -> None:
        """Ask the node to leave in order; kill it when it does not."""
        if name in self.running:
            self._processes[name].ask_to_leave()
            await self.resume(name)
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended(name)
        except TimeoutError:
            self._fold(name, Noted("error", f"did not stop within {timeout_s:g} s, killed"))
            await self.kill(name)

    async def start(self, name: str) -> None:
        """A new process in the same home, unless one runs or has trained to the end. It looks for those that live."""
        async with self._turns[name]:
            if name not in self.running:
                await self._ended(name)
                await self._start(name)
        self._late.pop(name, None)
        self._due.discard(name)

    async def _start(self, name: str) -> None:
        if self._is_over(name):
            self._fold(name, Noted("info", "has trained to the end, and is not started again"))
            return
        if name in self._processes:
            self._fold(name, Restarted())
        others = [self._address(other) for other in self.running if self.files[other].node.calls][:3]
        file = self.files[name]
        bootstrap = tuple(dict.fromkeys((*others, *file.node.bootstrap))) if file.node.calls else ()
        await self._spawn(name, resolve.with_node(file, bootstrap=bootstrap))

    async def restart(self, name: str) -> None:
        """`start` after stopping one that still runs."""
        if name in self.running:
            await self.stop(name)
        await self.start(name)

    async def pause(self, name: str) -> None:
        """SIGSTOP to the daemon and its helpers."""
        if name in self.running:
            await self._processes[name].pause()

    async def resume(self, name: str) -> None:
        if name in self.running:
            await self._processes[name].resume()

    async def tear(self, name: str) -> None:
        """Have the node kill itself in the middle of its next checkpoint; kill it when none comes."""
        if name not in self.running:
            return
        self._processes[name].asked = True
        self._processes[name].order("tear")
        timeout_s = 2 * self.files[name].node.checkpoint_every + DRAIN_S
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended(name)
        except TimeoutError:
            self._fold(name, Noted("warning", f"wrote nothing within {timeout_s:g} s that could be torn, killed"))
            await self.kill(name)

    async def skew(self, name: str, seconds: float) -> None:
        self._skews[name] = seconds
        if name in self.running:
            self._processes[name].order(f"skew {seconds}")

    async def shape(self, links: Mapping[Pair, Link]) -> None:
        assert self._proxy, "for links there is a proxy"
        self._proxy.shape(links)

    async def reset(self, pairs: Sequence[Pair]) -> None:
        assert self._proxy, "for links there is a proxy"
        self._proxy.reset(pairs)

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
        """Until every node has exited and none is to be started before its training is over; then, no fault comes any
        more. Nodes that linger long after all are done are asked to leave."""
        while (running := self.running) or self._to_start:
            over = not self._to_start and all(
                self.state.nodes[name].phase in ("finished", "stopped") for name in running
            )
            await self._any_ended(LINGER_S if over else 1.0)
            if over and len(self.running) == len(running):
                self._drop_faults()
                await self.drain()
        self._drop_faults()
        await self._reap()
        return self.state

    @property
    def _to_start(self) -> set[str]:
        """Who is still to be started, for the first time or again, before its training is over."""
        ahead = {name for deed in self._ahead if deed.verb == "start" for name in deed.nodes}
        return {name for name in ahead | self._due | self._late.keys() if not self._is_over(name)}

    def _is_over(self, name: str) -> bool:
        """The node has ended by itself and in order: its training is done."""
        process = self._processes.get(name)
        return bool(process and not process.runs and not process.asked and self.state.nodes[name].phase == "stopped")

    def _drop_faults(self) -> None:
        """The training is over; say which faults it did not live to see."""
        late = [f"{deed.what} ({deed.at:g} s)" for deed in self._ahead]
        if late:
            more = f" and {len(late) - DROPPED_MAX} more" if len(late) > DROPPED_MAX else ""
            text = f"the training is over, dropped are the faults: {'; '.join(late[:DROPPED_MAX])}{more}"
            self._fold("", Noted("warning", text))
        self._no_more_faults()

    def _no_more_faults(self) -> None:
        for plans in (self._ahead, self._due, self._late):
            plans.clear()
        if self._faults:
            self._faults.cancel()

    async def drain(self) -> None:
        """Ask all nodes to leave in order, wait for a bounded time, kill the rest."""
        self._no_more_faults()
        async with asyncio.TaskGroup() as group:
            for name in self.running:
                group.create_task(self.stop(name))

    def kill_all(self) -> None:
        """At once; `finish` or `close` waits for the ends."""
        self._no_more_faults()
        self._kill(self.running)

    async def close(self) -> None:
        """Nothing survives this: kill what runs, reap it, and write the log to its end."""
        self.kill_all()
        try:
            await self._reap()
        finally:
            if self._proxy:
                await self._proxy.close()
            if self._log:
                await asyncio.to_thread(self._log.close)

    # What follows is different for nodes that are not plain processes of this machine.

    async def _prepare_links(self) -> None:
        if resolve.models_links(self.topology):
            ports = {int(file.node.listen.rpartition(":")[2]): name for name, file in self.files.items()}
            self._proxy = FaultProxy(self.topology, ports)
            for name, proxy in (await self._proxy.start()).items():
                self.files[name] = resolve.with_node(self.files[name], proxy=proxy)

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
            self._processes[name].kill()

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
        env = {**os.environ, "PYTHONPATH": path}
        if self._proxy:  # for everyone, also where `no_proxy` says otherwise; and not every refusal is worth a line
            env |= {"no_grpc_proxy": "", "GRPC_VERBOSITY": "NONE"}
        process = await Process.launch(command, env, home / "node.log", lambda line: self._line(name, line))
        self._processes[name] = process
        if name in self._skews:
            process.order(f"skew {self._skews[name]}")
        process.reader.add_done_callback(self._task_ended)
        self._watchers[name] = asyncio.create_task(self._watch(name, process))

    async def _watch(self, name: str, process: Process) -> None:
        """Fold how the process ends."""
        code = self._exit_code(await process.wait())
        in_order = process.asked or self.state.nodes[name].phase == "stopped"
        if code not in CLEAN or not in_order:
            self._fold(name, Died(code, on_purpose=process.asked and code == -signal.SIGKILL))
            if code > 0 and (tail := self.log_tail(name)):
                self._fold(name, Noted("error", tail[-1][:500]))

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """A bug in what folds or shows the events, or carries out faults, must not leave a swarm running unseen."""
        if not task.cancelled() and task.exception():
            self.kill_all()

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
        if name in self._watchers:
            await asyncio.shield(self._watchers[name])

    async def _reap(self) -> None:
        """Until all processes are gone; raises what went wrong meanwhile."""
        tasks = [*self._watchers.values(), *([self._faults] if self._faults else [])]
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _any_ended(self, timeout_s: float) -> None:
        """Or, while none runs, until the faults are over: they may start some."""
        watchers = [self._watchers[name] for name in self.running]
        if tasks := watchers or ([self._faults] if self._faults else []):
            await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
