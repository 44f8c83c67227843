"""How DADAO gets to the exact optimum, beside methods that go in rounds: without a network, on a simulated clock.

    python -m benchmarks.convex [--json FILE] [--html FILE] [--nodes N] [--condition K] [--seeds S] [--draws D]

The gap is the nodes' mean squared distance to the optimum, as a share of that at the start. A unit of time is one
gradient of a usual node, and what is sent arrives at once. DADAO's nodes compute at Poisson times; those of the others
all compute for one unit, then all exchange, so a node that is four times slower makes every round four units long.
Learning rates of the others are the best of a few, for each graph.

How much optimal rates save depends on the graph: of `--draws` geometric ones, the last table tells how often. The runs
are on one of those on which much is saved (`--graph-seed`).
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import common, convex_page
from p2ptrain import codecs, graphs
from p2ptrain.graphs import Graph
from p2ptrain.graphs.measures import lazy, metropolis_weights
from p2ptrain.seeds import derive, python_random
from p2ptrain.strategies import cdproxsgt, dadao, dpsgd, exact_diffusion, gradient_tracking
from p2ptrain.strategies.dadao.membership import begin
from p2ptrain.strategies.dadao.replay import Swarm, ticks
from p2ptrain.training import tasks
from p2ptrain.training.objective import Objective
from p2ptrain.training.splits import Data, examples
from p2ptrain.training.tasks.convex import Convex

TARGETS = (1e-4, 1e-6)
MAX_ROUNDS, MAX_TIME = 8000, 8000.0
PATIENCE = 500
"""Rounds in which a hundredth must be gained."""
SAMPLE_EVERY = 4.0
"""Units of time between two looks at a DADAO run."""
STEPS = (2.0, 1.0, 0.5, 0.25, 0.1, 0.03)
"""Learning rates that are tried, in units of 1 / L."""
SLOW = 4.0
GRAPH_SEED = 181
"""Ten nodes, 23 edges: 23.5 exchanges per unit of time with uniform rates, 10.5 with optimal ones."""


@dataclass(frozen=True)
class Problem:
    """One shard per node."""

    name: str
    shards: list[Objective]
    optimum: Tensor
    """(d,)"""

    @property
    def smoothness(self) -> float:
        return max(shard.smoothness for shard in self.shards)

    @property
    def convexity(self) -> float:
        return min(shard.convexity for shard in self.shards)

    def gradient(self, node: int, x: Tensor) -> Tensor:
        return torch.from_numpy(self.shards[node].gradient(x.numpy()))

    def gradients(self, points: Tensor) -> Tensor:
        """(n, d) to (n, d)"""
        return torch.stack([self.gradient(node, x) for node, x in enumerate(points)])

    def starts(self, seed: int) -> Tensor:
        """(n, d)"""
        generator = torch.Generator().manual_seed(derive(seed, "start"))
        return torch.randn(len(self.shards), len(self.optimum), generator=generator, dtype=torch.float64)

    def distance(self, points: Tensor) -> float:
        return float((points - self.optimum).square().sum(1).mean())


@dataclass(frozen=True)
class Look:
    """Where a run is."""

    gap: float
    gradients: float
    """Per node."""
    exchanges: float
    """Per edge."""
    time: float


Run = list[Look]


def problems(nodes: int, condition: float) -> list[Problem]:
    """Split by label, so that no two nodes have the same kind of data."""
    chosen = {
        "logistic, breast cancer": {"problem": "logistic", "dataset": "breast-cancer"},
        "least squares, digits": {"problem": "least-squares", "dataset": "digits"},
    }
    found: list[Problem] = []
    for name, options in chosen.items():
        task = tasks.make("convex", condition=condition, **options)
        assert isinstance(task, Convex)
        parts = [examples(task.labels(), Data(split="by-label"), nodes, slot, seed=0) for slot in range(nodes)]
        shards = [task.objective(part, nodes) for part in parts]
        found.append(Problem(name, shards, torch.from_numpy(task.objective().optimum)))
    return found


def run_dadao(problem: Problem, graph: Graph, rates: np.ndarray, seed: int, slowest: float = 1.0) -> Run:
    """Until the last target is met; `slowest`: how many times slower node 0 is."""
    chi1, chi2 = graph.chi1(rates), graph.chi2(rates)
    dadao.check_rates(chi1, chi2)
    constants = dadao.constants(problem.smoothness, problem.convexity, chi1, chi2)
    gradients: list[Callable[[Tensor], Tensor]] = [
        lambda x, node=node: problem.gradient(node, x) for node in range(graph.num_nodes)
    ]
    swarm = Swarm([begin(x) for x in problem.starts(seed)], constants, gradients)
    first, found = problem.distance(problem.starts(seed)), []
    speeds = [1 / slowest] + [1.0] * (graph.num_nodes - 1)
    for tick in ticks(speeds, graph.edges, rates, python_random(seed, "ticks")):
        due = len(found) * SAMPLE_EVERY
        if tick.time >= due:
            gap = problem.distance(torch.stack([state.x for state in swarm.all_at(due)])) / first
            per_node, per_edge = swarm.num_gradients / graph.num_nodes, swarm.num_exchanges / len(graph.edges)
            found.append(Look(gap, per_node, per_edge, due))
            if not TARGETS[-1] < gap < 1e6 or due > MAX_TIME:
                return found
        swarm.tick(tick)
    raise AssertionError


Rounds = Callable[[Problem, Callable[[Tensor], Tensor], Tensor, float], Iterator[Tensor]]
"""(problem, averages with neighbours, starts (n, d), lr) to the points after each round."""


def rounds_of_dpsgd(problem: Problem, mix: Callable[[Tensor], Tensor], x: Tensor, lr: float) -> Iterator[Tensor]:
    while True:
        x = dpsgd.step(mix(x), problem.gradients(x), lr)
        yield x


def rounds_of_tracking(problem: Problem, mix: Callable[[Tensor], Tensor], x: Tensor, lr: float) -> Iterator[Tensor]:
    state = gradient_tracking.begin(x, problem.gradients(x))
    while True:
        x = gradient_tracking.move(mix(state.x), state, lr)
        state = gradient_tracking.track(mix(state.q), state, x, problem.gradients(x))
        yield x


def rounds_of_diffusion(problem: Problem, mix: Callable[[Tensor], Tensor], x: Tensor, lr: float) -> Iterator[Tensor]:
    state = exact_diffusion.begin(x)
    while True:
        phi, psi = exact_diffusion.adapt(state, problem.gradients(state.x), lr)
        state = exact_diffusion.combine(mix(phi), psi)
        yield state.x


def rounds_of_cdproxsgt(problem: Problem, mix: Callable[[Tensor], Tensor], x: Tensor, lr: float) -> Iterator[Tensor]:
    state, codec = cdproxsgt.begin(x[:1].expand_as(x)), codecs.make("int8")

    def compressed(vectors: Tensor) -> Tensor:
        return torch.stack([codec.decode(codec.encode(vector)).double() for vector in vectors])

    while True:
        state = cdproxsgt.track(state, problem.gradients(state.x))
        sent = compressed(state.y - state.public_y.own)
        state = cdproxsgt.step(cdproxsgt.mix_y(state, sent, mix(sent), gamma=1.0), lr)
        sent = compressed(state.x - state.public_x.own)
        state = cdproxsgt.mix_x(state, sent, mix(sent), gamma=1.0)
        yield state.x


ROUNDS: dict[str, Rounds] = {
    "D-PSGD": rounds_of_dpsgd,
    "gradient tracking": rounds_of_tracking,
    "exact diffusion": rounds_of_diffusion,
    "CDProxSGT, int8": rounds_of_cdproxsgt,
}


def run_rounds(method: Rounds, problem: Problem, graph: Graph, lr: float, seed: int) -> Run:
    """Until the last target is met, it diverges or stays where it is, or the rounds are up."""
    weights = torch.from_numpy(lazy(metropolis_weights(graph)))
    starts = problem.starts(seed)
    first, found = problem.distance(starts), [Look(1.0, 0, 0, 0.0)]
    for number, points in enumerate(method(problem, lambda vectors: weights @ vectors, starts, lr), 1):
        gap = problem.distance(points) / first
        found.append(Look(gap, number, number, float(number)))
        stands = number % PATIENCE == 0 and gap > 0.99 * found[-1 - PATIENCE].gap
        if not TARGETS[-1] < gap < 1e3 or stands or number == MAX_ROUNDS:
            return found
    raise AssertionError


def best_run(method: Rounds, problem: Problem, graph: Graph, seed: int) -> Run:
    """With the learning rate that is first at the first target, or else ends nearest; smaller ones are only tried until
    one is worse."""

    def order(run: Run) -> tuple[float, float]:
        return to_target(run, TARGETS[0], "time") or math.inf, run[-1].gap

    best = run_rounds(method, problem, graph, STEPS[0] / problem.smoothness, seed)
    for step in STEPS[1:]:
        run = run_rounds(method, problem, graph, step / problem.smoothness, seed)
        if order(run) > order(best) and order(best)[0] < math.inf:
            break
        best = min(best, run, key=order)
    return best


def to_target(run: Run, target: float, what: str) -> float | None:
    """The first look's `what` at which the gap is no larger."""
    return next((getattr(look, what) for look in run if look.gap <= target), None)


def runs(problem: Problem, graph: Graph, num_seeds: int) -> dict[str, list[Run]]:
    """By method, one for each seed. Rounds know no chance but the starts: one run will do."""
    uniform, optimal = graph.uniform_rates(), graph.optimal_rates()
    found = {"DADAO": [run_dadao(problem, graph, uniform, seed) for seed in range(num_seeds)]}
    if optimal.sum() < 0.95 * uniform.sum():
        found["DADAO, optimal rates"] = [run_dadao(problem, graph, optimal, seed) for seed in range(num_seeds)]
    found["DADAO, one slow node"] = [run_dadao(problem, graph, uniform, seed, SLOW) for seed in range(num_seeds)]
    found.update({name: [best_run(method, problem, graph, 0)] for name, method in ROUNDS.items()})
    return found


def figures(found: dict[str, list[Run]], num_edges: int) -> dict[str, dict[str, Any]]:
    """By method: medians over the seeds of what each target took; None where the middle run never met it."""
    results: dict[str, dict[str, Any]] = {}
    for name, method_runs in found.items():
        results[name] = {"gap at the end": statistics.median(run[-1].gap for run in method_runs)}
        for target in TARGETS:
            for what in ("gradients", "exchanges", "time"):
                values = [to_target(run, target, what) for run in method_runs]
                middle = statistics.median(math.inf if value is None else value for value in values)
                results[name][f"{what} to {target:g}"] = middle if math.isfinite(middle) else None
        exchanges = results[name][f"exchanges to {TARGETS[-1]:g}"]
        results[name]["all exchanges"] = exchanges and exchanges * num_edges
    return results


def requirements(results: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """The figures that were asked for, by what they are."""
    first, last = (f"{target:g}" for target in TARGETS)
    slow, tracking = results["DADAO, one slow node"], results["gradient tracking"]
    asked = {
        "time of gradient tracking / DADAO, one node 4 times slower (wanted: 2)": _ratio(
            tracking[f"time to {first}"], slow[f"time to {first}"], SLOW
        )
    }
    if optimal := results.get("DADAO, optimal rates"):
        asked["exchanges with uniform / with optimal rates (wanted on geometric: 2)"] = _ratio(
            results["DADAO"][f"exchanges to {last}"], optimal[f"exchanges to {last}"]
        )
    return asked


def _ratio(above: float | None, below: float | None, times: float = 1.0) -> float | None:
    return times * above / below if above and below else None


def savings(nodes: int, draws: int) -> list[float]:
    """Exchanges per unit of time with uniform rates, as multiples of those with optimal ones, on geometric graphs."""
    drawn = (graphs.make("geometric", n=nodes, seed=seed) for seed in range(draws))
    return [float(graph.uniform_rates().sum() / graph.optimal_rates().sum()) for graph in drawn]


def show(problem: Problem, graph: Graph, results: dict[str, dict[str, Any]]) -> None:
    condition = problem.smoothness / problem.convexity
    title = f"{problem.name} (L / mu {condition:.0f}), {graph.name}, {graph.num_nodes} nodes, {len(graph.edges)} edges"
    what = [f"{name} to {target:g}" for target in TARGETS for name in ("gradients", "exchanges", "time")]
    columns = [
        "method",
        *(name.replace("gradients", "gradients a node").replace("exchanges", "exchanges an edge") for name in what),
        "gap at the end",
    ]
    common.table(
        title, columns, [[name, *(row[key] for key in (*what, "gap at the end"))] for name, row in results.items()]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the curves here")
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--condition", type=float, default=200.0, help="L / mu of all data together (default 200)")
    parser.add_argument("--seeds", type=int, default=5, help="runs of DADAO, of which the median is shown (default 5)")
    parser.add_argument("--draws", type=int, default=200, help="geometric graphs of the last table (default 200)")
    parser.add_argument("--graph-seed", type=int, default=GRAPH_SEED, help=f"of drawn graphs (default {GRAPH_SEED})")
    parser.add_argument("--graphs", nargs="+", default=["ring", "geometric", "complete"], metavar="KIND")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    payload, curves = [], {}
    for problem in problems(args.nodes, args.condition):
        for kind in args.graphs:
            drawn = {"seed": args.graph_seed} if "seed" in graphs.get(kind).model_fields else {}
            graph = graphs.make(kind, n=args.nodes, **drawn)
            found = runs(problem, graph, args.seeds)
            results = figures(found, len(graph.edges))
            show(problem, graph, results)
            asked = requirements(results)
            common.table("", ["asked for", "measured"], list(asked.items()))
            payload.append({"problem": problem.name, "graph": kind, "methods": results, "asked": asked})
            curves[f"{problem.name}: {kind}"] = {name: method_runs[0] for name, method_runs in found.items()}
    saved = savings(args.nodes, args.draws)
    if saved:
        shares = {f"{share} %": float(np.percentile(saved, share)) for share in (0, 10, 25, 50, 75, 90, 100)}
        columns = ["", *shares, "twice or more"]
        row = ["uniform / optimal", *shares.values(), f"{sum(each >= 2 for each in saved) / len(saved):.0%}"]
        common.table(f"exchanges that optimal rates save, on {len(saved)} geometric graphs", columns, [row])
    common.write_json(
        args.json,
        {"nodes": args.nodes, "condition": args.condition, "seeds": args.seeds, "cases": payload, "saved": saved},
    )
    if args.html:
        convex_page.write(args.html, curves)


if __name__ == "__main__":
    main()
