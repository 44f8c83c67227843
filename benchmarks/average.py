"""One averaging round of 25M float32 parameters: this project's swaps beside hivemind's averager and gloo's all-reduce.

    python -m benchmarks.average [--json FILE] [--repeats N] [--peers 2 4] [--parameters 25000000]

Every peer is a process of its own, each system has its own, and all cases run in turns. Peer k starts each round with
the vector (k+1, k+1, ...), so that the outcome tells whether the round worked: only then does it count as a success.
A round lasts from the first peer's start to the last one's end.

    one swap         every peer swaps with one other; four peers do so in two pairs at once
    all, by swaps    log2(peers) swaps one after the other, so that everyone has everyone's share
    hivemind         `DecentralizedAverager.step()`, uncompressed (its 8 bit codecs cannot decode with numpy 2.4): as it
                     comes, and told how many peers there are and to look for them as briefly as it works
    after matchmaking  of the latter's rounds, from the first peer's entry into `_aggregate_with_group` (which it calls
                     with the assembled group) to the last one's return from there, clocked inside its process
"""

import asyncio
import math
import multiprocessing
import os
import signal
import socket
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import common

START_S_MAX = 60.0
ROUND_S_MAX = 40.0
"""A round that takes longer has failed."""
MATCHMAKING_S = 1.0
"""As short as hivemind 1.1.12 finds its peers reliably; by default it is 5 s."""

OURS = {
    ("fp32", False): "ours fp32 TLS, one swap",
    ("fp32", True): "ours fp32 TLS, all by swaps",
    ("int8", False): "ours int8 TLS, one swap",
    ("int8", True): "ours int8 TLS, all by swaps",
}
GLOO = "gloo all-reduce"
DEFAULT, DEFAULT_AFTER = "hivemind, default", "- after matchmaking"
QUICK, QUICK_AFTER = "hivemind, quick matchmaking", "- after quick matchmaking"


class Span(NamedTuple):
    """One peer's part of a round, on the clock that all processes of the machine share."""

    begin_s: float
    end_s: float


class Case(NamedTuple):
    """One peer's way of taking part: `reset` sets the vector, `run` averages, `result` is the vector then."""

    reset: Callable[[Tensor], object]
    run: Callable[[], object]
    result: Callable[[], Tensor]
    group: int
    """With how many peers, itself included and ranks in a row, it ends up averaged."""
    within: Callable[[], dict[str, Span]] = dict
    """Spans that lie within the round."""


class Outcome(NamedTuple):
    """What one peer says about a round."""

    spans: dict[str, Span]
    ok: bool
    """Every element is what it should be, within 1 % for what a codec loses."""
    error: str = ""


class Place(NamedTuple):
    """Where a peer stands; `share` gives everybody's value of something, in order of ranks."""

    rank: int
    num_peers: int
    size: int
    share: Callable[[Any], list[Any]]


class Ready(NamedTuple):
    """A peer has set itself up."""

    cases: tuple[str, ...]


@contextmanager
def ours(place: Place) -> Iterator[dict[str, Case]]:
    """Whole exchangers over the real transport with TLS."""
    from benchmarks.pair import Side
    from p2ptrain.errors import PeerBusy
    from p2ptrain.network.loop import new_event_loop
    from p2ptrain.ports import Contact, PeerId

    async def make(codec: str, home: Path) -> tuple[Side, tuple[str, str, bytes]]:
        side = Side(home, place.size, codec, tls=True)
        return side, await side.start()

    async def learn(side: Side, contacts: list[tuple[str, str, bytes]]) -> None:
        for peer, address, certificate in contacts:
            if peer != side.me:
                side.transport.learn(PeerId(peer), Contact((address,), certificate))

    async def swaps(side: Side, peers: list[PeerId], stages: int) -> None:
        async with asyncio.timeout(ROUND_S_MAX):
            for stage in range(stages):
                partner = place.rank ^ (1 << stage)
                while place.rank < partner:
                    try:
                        await side.exchanger.swap(peers[partner])
                        break
                    except PeerBusy:  # it is not through with the stage before
                        await asyncio.sleep(0.005)
                await side.swapped.wait()
                side.swapped.clear()
                side.replica.settle()

    with asyncio.Runner(loop_factory=new_event_loop) as runner, TemporaryDirectory() as folder:

        def case(side: Side, peers: list[PeerId], stages: int) -> Case:
            return Case(
                side.replica.load,
                lambda: runner.run(swaps(side, peers, stages)),
                side.replica.snapshot,
                1 << stages,
            )

        cases: dict[str, Case] = {}
        sides: list[Side] = []
        for codec in ("fp32", "int8"):
            side, contact = runner.run(make(codec, Path(folder) / codec))
            sides.append(side)
            contacts = place.share(contact)
            runner.run(learn(side, contacts))
            peers = [PeerId(peer) for peer, _, _ in contacts]
            for stages in sorted({1, int(math.log2(place.num_peers))}):
                cases[OURS[codec, stages > 1]] = case(side, peers, stages)
        yield cases
        for side in sides:
            runner.run(side.close())


@contextmanager
def gloo(place: Place) -> Iterator[dict[str, Case]]:
    """`all_reduce`, then the division."""
    import torch.distributed as distributed

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"tcp://127.0.0.1:{place.share(port)[0]}"
    distributed.init_process_group("gloo", init_method=url, rank=place.rank, world_size=place.num_peers)
    tensor = torch.empty(place.size)

    def average() -> None:
        distributed.all_reduce(tensor)
        tensor.div_(place.num_peers)

    yield {GLOO: Case(tensor.copy_, average, lambda: tensor, place.num_peers)}


@contextmanager
def hivemind(place: Place) -> Iterator[dict[str, Case]]:
    """One DHT and two averagers; hivemind forks a process for each of the three."""
    os.environ.setdefault("HIVEMIND_LOGLEVEL", "CRITICAL")
    from hivemind import DHT, DecentralizedAverager

    multiprocessing.set_start_method("fork", force=True)

    class Averager(DecentralizedAverager):
        """Its forked process notes when it had a group and when it was through with it."""

        def __init__(self, **options: Any) -> None:
            self.marks = multiprocessing.Array("d", 2)
            self.vector = torch.zeros(place.size)  # moved to memory that the two processes share
            super().__init__([self.vector], **options)

        async def _aggregate_with_group(self, *args: Any, **kwargs: Any) -> Any:
            self.marks[0] = time.monotonic()
            result = await super()._aggregate_with_group(*args, **kwargs)
            self.marks[1] = time.monotonic()
            return result

    def start_dht(initial_peers: list[str]) -> DHT:
        return DHT(initial_peers=initial_peers, host_maddrs=["/ip4/127.0.0.1/tcp/0"], start=True)

    if place.rank == 0:
        dht = start_dht([])
        place.share([str(address) for address in dht.get_visible_maddrs()])
    else:
        dht = start_dht(place.share(None)[0])

    def case(averager: Averager, inner: str) -> Case:
        def reset(vector: Tensor) -> None:
            averager.marks[:] = [0.0, 0.0]
            averager.vector.copy_(vector)

        return Case(
            reset,
            lambda: averager.step(timeout=ROUND_S_MAX / 2),
            lambda: averager.vector,
            place.num_peers,
            lambda: {inner: Span(*averager.marks[:])},
        )

    common_options: dict[str, Any] = {"dht": dht, "start": True, "allreduce_timeout": ROUND_S_MAX / 2}
    default = Averager(prefix="default", **common_options)
    quick = Averager(
        prefix="quick",
        target_group_size=place.num_peers,
        min_group_size=place.num_peers,
        min_matchmaking_time=MATCHMAKING_S,
        request_timeout=MATCHMAKING_S / 2,
        **common_options,
    )
    yield {DEFAULT: case(default, DEFAULT_AFTER), QUICK: case(quick, QUICK_AFTER)}
    for thing in (default, quick, dht):
        with suppress(Exception):
            thing.shutdown()


SYSTEMS = {"ours": ours, "gloo": gloo, "hivemind": hivemind}


def _peer(pipe: Connection, system: str, rank: int, num_peers: int, size: int) -> None:
    """A peer's process: leads a process group that ends with it."""
    os.setsid()
    torch.set_num_threads(1)

    def share(value: Any) -> list[Any]:
        pipe.send(value)
        return pipe.recv()

    try:
        with SYSTEMS[system](Place(rank, num_peers, size, share)) as cases:
            pipe.send(Ready(tuple(cases)))
            while name := pipe.recv():
                case = cases[name]
                case.reset(torch.full((size,), rank + 1.0))
                share("ready")
                pipe.send(_take_part(name, case, rank))
    except (EOFError, KeyboardInterrupt):
        pass
    except Exception:
        traceback.print_exc()
    finally:
        os.killpg(0, signal.SIGKILL)


def _take_part(name: str, case: Case, rank: int) -> Outcome:
    begin = time.monotonic()
    try:
        case.run()
    except Exception as error:
        return Outcome({}, False, repr(error))
    spans = {name: Span(begin, time.monotonic()), **case.within()}
    due = rank // case.group * case.group + (case.group + 1) / 2
    vector = case.result()
    off = max(abs(vector.min().item() - due), abs(vector.max().item() - due))
    return Outcome(spans, off < 0.01 * due, "" if off < 0.01 * due else f"off by {off:.3g}")


class Peers:
    """The processes of one system."""

    def __init__(self, system: str, num_peers: int, size: int) -> None:
        self._system = system
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(num_peers):
            here, there = multiprocessing.Pipe()
            arguments = (there, system, rank, num_peers, size)
            process = multiprocessing.get_context("spawn").Process(target=_peer, args=arguments)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)
        self.cases: tuple[str, ...] = ()

    def start(self) -> None:
        """Let them share what they have to until every one is ready."""
        while True:
            said = self._hear(START_S_MAX)
            if isinstance(said[0], Ready):
                self.cases = said[0].cases
                return
            self._tell(said)

    def round(self, name: str) -> list[Outcome]:
        """What each peer says."""
        self._tell(name)
        self._tell(self._hear(ROUND_S_MAX))
        return self._hear(2 * ROUND_S_MAX)

    def close(self) -> None:
        with suppress(OSError):
            self._tell("")
        for process in self._processes:
            process.join(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()

    def _tell(self, what: Any) -> None:
        for pipe in self._pipes:
            pipe.send(what)

    def _hear(self, seconds: float) -> list[Any]:
        deadline = time.monotonic() + seconds
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(max(0.0, deadline - time.monotonic())):
                raise SystemExit(f"{self._system}: peer {rank} said nothing for {seconds:.0f} s")
        return [pipe.recv() for pipe in self._pipes]


class Series:
    """What became of one case's rounds; a failed one took infinitely long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.errors: list[str] = []

    def add(self, name: str, outcomes: list[Outcome]) -> None:
        errors = [outcome.error for outcome in outcomes if not outcome.ok]
        self.errors.extend(errors[:1])
        spans = [outcome.spans[name] for outcome in outcomes if name in outcome.spans]
        self.seconds.append(math.inf if errors else max(end for _, end in spans) - min(begin for begin, _ in spans))

    @property
    def success_rate(self) -> float:
        return sum(map(math.isfinite, self.seconds)) / len(self.seconds)

    def times_as_fast_as(self, other: "Series") -> float:
        """Median over the rounds in which both worked."""
        pairs = [pair for pair in zip(other.seconds, self.seconds, strict=True) if all(map(math.isfinite, pair))]
        return statistics.median(theirs / own for theirs, own in pairs) if pairs else math.nan


def measure(num_peers: int, size: int, repeats: int) -> dict[str, Series]:
    """All cases in turns, one round each to warm up."""
    with ExitStack() as stack:
        systems = []
        for name in SYSTEMS:
            peers = Peers(name, num_peers, size)
            stack.callback(peers.close)
            peers.start()
            systems.append(peers)
        series: dict[str, Series] = {}
        for turn in range(repeats + 1):
            for peers in systems:
                for case in peers.cases:
                    outcomes = peers.round(case)
                    inner = {DEFAULT: DEFAULT_AFTER, QUICK: QUICK_AFTER}.get(case)
                    for name in filter(None, (case, inner)):
                        if turn:
                            series.setdefault(name, Series()).add(name, outcomes)
        return series


def report(num_peers: int, size: int, series: dict[str, Series]) -> None:
    rows = [
        (
            name,
            statistics.median(one.seconds),
            one.times_as_fast_as(series[QUICK_AFTER]),
            one.times_as_fast_as(series[DEFAULT]),
            one.success_rate,
        )
        for name, one in series.items()
    ]
    columns = ["case", "median s", "speed / hivemind after matchmaking", "/ hivemind default", "success rate"]
    rounds = len(series[GLOO].seconds)
    common.table(f"{num_peers} peers average {size / 1e6:g}M float32 parameters, {rounds} rounds", columns, rows)
    for name, one in series.items():
        if one.errors:
            print(f"{name}: {len(one.errors)} rounds failed, e.g. {one.errors[0]}")
        if name in OURS.values():
            fast, faster = one.times_as_fast_as(series[QUICK_AFTER]), one.times_as_fast_as(series[DEFAULT])
            print(
                f"{num_peers} peers, {name}: {fast:.1f} times as fast as hivemind after matchmaking (required 4), "
                f"{faster:.1f} times its default (required 20), success rate {one.success_rate:g} (required 1)"
            )


def main() -> None:
    parser = common.arguments(__doc__)
    parser.set_defaults(repeats=5)
    parser.add_argument("--peers", nargs="*", type=int, default=[2, 4], help="powers of two (default 2 4)")
    parser.add_argument("--parameters", type=int, default=25_000_000)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"  # of what hivemind leaves behind
    results: dict[str, Any] = {}
    for num_peers in args.peers:
        series = measure(num_peers, args.parameters, args.repeats)
        report(num_peers, args.parameters, series)
        results[f"{num_peers} peers"] = {
            name: {
                "seconds": [x if x < math.inf else None for x in one.seconds],
                "success_rate": one.success_rate,
                "errors": one.errors,
            }
            for name, one in series.items()
        }
    common.write_json(args.json, {"parameters": args.parameters, "cpus": os.cpu_count(), **results})


if __name__ == "__main__":
    main()
