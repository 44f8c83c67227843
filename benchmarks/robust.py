"""What robust rules cost, and what they are good for.

    python -m benchmarks.robust [--json FILE] [--repeats N] [--only time|accuracy] [--n 10 20] [--d 1000000 10000000]
                                [--liars 2] [--rounds N] [--rules NAME...] [--attacks NAME...]

Times, on one thread: each rule on the same n vectors of d float32 numbers, in turns, as multiples of `mean` and of
`torch.sum` over them in the same run; byzfl's rules beside, where it is installed.

Accuracy: MoNNA on `digits` in one process. Of 11 nodes on a full graph each has its own part of the data (Dirichlet
1.0); in every round each takes a step with local momentum, sends its model, and combines its own with all others'. The
liars know the honest models of the round and the recipients' rule. Printed is the worst honest node's accuracy at the
end; a dash where the rule refuses to stand so many liars among so few.
"""

import importlib.util
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.common import arguments, measure, medians, ratio_to, table, write_json
from p2ptrain import aggregators, attacks
from p2ptrain.aggregators import Aggregator
from p2ptrain.attacks import Attack, Scene
from p2ptrain.errors import TooFewError
from p2ptrain.seeds import numpy_random
from p2ptrain.training.splits import Data, examples
from p2ptrain.training.tasks.digits import Digits

SUM = "torch.sum"
WANTED = {
    "nna": 8, "krum": 8, "multi-krum": 8, "geometric-median": 10, "centered-clip": 10, "self-clip": 10, "flag": 12,
    "median": 35, "trimmed-mean": 35, "meamed": 45, "nnm": 25,
}  # fmt: skip
"""Times `torch.sum` at most, for n = 20, d = 10^7."""
MORE_RULES: tuple[dict[str, Any], ...] = (
    {"name": "flag", "lam": 1.0}, {"name": "flag", "origin": "own"}, {"name": "nnm", "rule": "mean"},
)  # fmt: skip
ATTACKS: dict[str, Any] = {
    "nobody": None,
    "alie": "alie",
    "foe": "foe",
    "sign-flip": "sign-flip",
    "label-flip": "label-flip",
    "mimic": "mimic",
    "dissensus": "dissensus",
    "noise": "noise",
    "equivocating alie": "equivocation",
    "zero": "zero",
    "bit-flip": {"name": "bit-flip", "share": 0.01},
    "stale": "stale",
}
NUM_NODES, ALPHA = 11, 1.0


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=("time", "accuracy"))
    parser.add_argument("--n", type=int, nargs="+", default=[10, 20], help="vectors, own included")
    parser.add_argument("--d", type=int, nargs="+", default=[1_000_000, 10_000_000], help="numbers in each")
    parser.add_argument("--liars", type=int, default=2, help="of 11 nodes (default 2)")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--lr", type=float, default=0.5)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rules", nargs="+", help="labels of rows (default: all)")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, help="columns (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    if options.only != "accuracy":
        shapes = [(n, d) for n in options.n for d in options.d]
        results["time"] = [row for n, d in shapes for row in print_times(n, d, options.repeats, options.rules)]
    if options.only != "time":
        setting = Setting(options.liars, options.rounds, options.lr, options.momentum, options.seed)
        results["accuracy"] = print_accuracies(setting, options.rules, options.attacks or list(ATTACKS))
    write_json(options.json, results)


def rules_for(f: int, wanted: list[str] | None) -> dict[str, Aggregator]:
    """By label: every rule as it is but for `f`, and a few with other options."""
    chosen = {}
    for options in (*({"name": name} for name in aggregators.names()), *MORE_RULES):
        label = " ".join(str(value) for value in options.values())
        if wanted is None or label in wanted:
            takes_f = "f" in aggregators.get(options["name"]).model_fields
            chosen[label] = aggregators.parse({**options, "f": f} if takes_f else options)
    return chosen


def print_times(n: int, d: int, repeats: int, wanted: list[str] | None) -> list[dict[str, Any]]:
    """One row per rule, ours and byzfl's."""
    f = n // 5
    vectors = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    rules = rules_for(f, wanted) | {"mean": aggregators.make("mean")}
    cases: dict[str, Callable[[], object]] = {SUM: vectors.sum}
    for label, rule in rules.items():
        rule.warm()
        if n > rule.min_received:
            cases[label] = lambda rule=rule: rule(vectors[0], vectors[1:])
    cases |= byzfl_cases(vectors, f)
    seconds = measure(cases, repeats)
    rows = []
    for label, typical in medians(seconds).items():
        to_sum, to_mean = (1 / ratio_to(seconds[yardstick], seconds[label]) for yardstick in (SUM, "mean"))
        limit = WANTED.get(label.split()[0]) if (n, d) == (20, 10_000_000) else None
        rows.append({"n": n, "d": d, "rule": label, "s": typical, "mean": to_mean, "sum": to_sum, "wanted": limit})
    table(f"n = {n}, d = {d}, f = {f}", ("rule", "median s", "x mean", "x torch.sum", "wanted"), [
        (row["rule"], row["s"], row["mean"], row["sum"], row["wanted"]) for row in rows
    ])  # fmt: skip
    return rows


def byzfl_cases(vectors: Tensor, f: int) -> dict[str, Callable[[], object]]:
    """Its rules on the same rows; those that copy all of them many times over are left out where they are large."""
    if importlib.util.find_spec("byzfl") is None:
        return {}
    import byzfl  # type: ignore[import-not-found]

    made = {
        "nna": byzfl.MoNNA(f, 0), "krum": byzfl.Krum(f), "multi-krum": byzfl.MultiKrum(f), "median": byzfl.Median(),
        "trimmed-mean": byzfl.TrMean(f), "meamed": byzfl.Meamed(f), "geometric-median": byzfl.GeometricMedian(),
        "centered-clip": byzfl.CenteredClipping(),
    }  # fmt: skip
    if vectors.numel() * (len(vectors) - f) < 1 << 29:
        made["nnm"] = byzfl.NNM(f)
    return {f"byzfl {name}": lambda rule=rule: rule(vectors) for name, rule in made.items()}


@dataclass(frozen=True)
class Setting:
    """One swarm, but for its rule and its attack."""

    liars: int
    rounds: int
    lr: float
    momentum: float
    seed: int
    task: Digits = field(default_factory=Digits)


def print_accuracies(
    setting: Setting, wanted: list[str] | None, columns: list[str]
) -> dict[str, dict[str, float | None]]:
    """Percent by rule and attack; None where the rule refuses as many liars."""
    found: dict[str, dict[str, float | None]] = {}
    for label, rule in rules_for(setting.liars, wanted).items():
        found[label] = {name: _percent(setting, rule, ATTACKS[name]) for name in columns}
    table(
        f"digits, {NUM_NODES} nodes, {setting.liars} of them liars: accuracy of the worst honest node, %",
        ("rule", *columns),
        [(label, *row.values()) for label, row in found.items()],
    )
    return found


def _percent(setting: Setting, rule: Aggregator, attack: Any) -> float | None:
    try:
        return round(100 * Swarm(setting, rule, attacks.parse(attack)).run(), 1)
    except TooFewError:
        return None


class Swarm:
    """All nodes' models, (11, d), in synchronous rounds; the liars are the last rows, and at home they are honest."""

    def __init__(self, setting: Setting, rule: Aggregator, attack: Attack | None) -> None:
        self.setting, self.rule, self.attack = setting, rule, attack
        self.task, self.module = setting.task, setting.task.model(setting.seed)
        self.num_honest = NUM_NODES - setting.liars
        self.models = nn.utils.parameters_to_vector(self.module.parameters()).detach().repeat(NUM_NODES, 1)
        self.momenta = torch.zeros_like(self.models)
        labels, data = self.task.labels(), Data(split="dirichlet", alpha=ALPHA)
        self.parts = [examples(labels, data, NUM_NODES, slot, setting.seed) for slot in range(NUM_NODES)]
        self.num_classes = int(labels.max()) + 1
        self.history: deque[Tensor] = deque(maxlen=max(1, attack.memory if attack else 1))
        self._gradients = torch.func.vmap(torch.func.grad(self._loss))

    def run(self) -> float:
        for number in range(self.setting.rounds):
            self._half_step(number)
            self.models = self._mixed(number)
        return min(self._accuracy(model) for model in self.models[: self.num_honest])

    def _half_step(self, number: int) -> None:
        batches = [self._batch(slot, number) for slot in range(NUM_NODES)]
        images, labels = (torch.stack(each) for each in zip(*batches, strict=True))
        beta = self.setting.momentum
        self.momenta = beta * self.momenta + (1 - beta) * self._gradients(self.models, images, labels)
        self.models = self.models - self.setting.lr * self.momenta

    def _mixed(self, number: int) -> Tensor:
        """What each has after the exchange, (11, d)."""
        mixed = []
        lies = self._lies(number)
        for slot in range(NUM_NODES):
            others = [row for row in range(NUM_NODES) if row != slot]
            sent = torch.stack(
                [lies[slot][row - self.num_honest] if row >= self.num_honest else self.models[row] for row in others]
            )
            mixed.append(self.rule(self.models[slot], sent))
        self.history.append(self.models[self.num_honest :])
        return torch.stack(mixed)

    def _lies(self, number: int) -> list[list[Tensor]]:
        """By recipient, what each liar tells it. They tell each other the truth."""
        truth = list(self.models[self.num_honest :])
        if self.attack is None:
            return [truth] * NUM_NODES
        told: list[list[Tensor]] = []
        for slot in range(self.num_honest):
            if told and not self.attack.per_recipient:
                told.append(told[0])
            else:
                told.append(self._told(slot, number))
        return told + [truth] * self.setting.liars

    def _told(self, slot: int, number: int) -> list[Tensor]:
        assert self.attack is not None
        lies, seen = [], self.models[: self.num_honest]
        for liar in range(self.setting.liars):
            if liar and self.attack.omniscient and self.attack.name != "sign-flip":
                lies.append(lies[0])  # those that see the same say the same
                continue
            history = torch.stack([models[liar] for models in self.history]) if self.history else seen[:0]
            scene = Scene(self.setting.liars, self.rule, slot, history=history)
            rng = numpy_random(self.setting.seed, "attack", liar, number, slot)
            lies.append(self.attack(self.models[self.num_honest + liar], seen, rng, to=slot, scene=scene))
        return lies

    def _batch(self, slot: int, number: int) -> tuple[Tensor, Tensor]:
        images, labels = self.task.batch(self.parts[slot], numpy_random(self.setting.seed, "batch", slot, number))
        lies = self.attack is not None and slot >= self.num_honest
        return images, cast(Attack, self.attack).targets(labels, self.num_classes) if lies else labels

    def _loss(self, model: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        return self.task.loss(self._as_module(model), (images, labels))

    def _as_module(self, model: Tensor) -> nn.Module:
        """The model with this flat vector for its parameters, as far as calling it goes."""
        shapes = {name: parameter.shape for name, parameter in self.module.named_parameters()}
        parts = model.split([math.prod(shape) for shape in shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return cast(nn.Module, lambda inputs: torch.func.functional_call(self.module, named, (inputs,)))

    def _accuracy(self, model: Tensor) -> float:
        if not model.isfinite().all():
            return 0.0
        nn.utils.vector_to_parameters(model, self.module.parameters())
        with torch.no_grad():
            return self.task.evaluate(self.module).accuracy or 0.0


if __name__ == "__main__":
    main()
