"""What every attack promises, and each beside its formula."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from p2ptrain import aggregators, attacks
from p2ptrain.attacks import Attack, Scene
from p2ptrain.attacks._search import climb
from p2ptrain.attacks.alie import largest_unsuspicious
from p2ptrain.errors import ConfigError

VARIANTS: list[dict[str, Any]] = [
    {"name": "alie", "strength": 1.0},
    {"name": "foe", "strength": 1.1},
    {"name": "sign-flip", "of": "mean", "strength": 10},
    {"name": "noise", "distribution": "uniform", "around": "own"},
    {"name": "equivocation", "attack": {"name": "foe", "strength": 0.5}},
]
ATTACKS = [attacks.make(name) for name in attacks.names()] + [attacks.parse(each) for each in VARIANTS]


def vectors(num: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(num, size, generator=torch.Generator().manual_seed(seed)) + 1


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


OWN, SEEN = vectors(1, 60, seed=8)[0], vectors(9, 60)
MEAN, DEVIATION = SEEN.mean(0), SEEN.std(0)


@pytest.fixture(params=ATTACKS, ids=lambda attack: "-".join(str(value) for value in attack.model_dump().values()))
def attack(request: pytest.FixtureRequest) -> Attack:
    return request.param


@pytest.mark.parametrize("num_seen", [0, 1, 2, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_lie_looks_like_a_vector(attack: Attack, num_seen: int, dtype: torch.dtype) -> None:
    own, seen = OWN.to(dtype), SEEN[:num_seen].to(dtype)
    lie = attack(own, seen, rng(), to=1)
    assert (lie.shape, lie.dtype) == (own.shape, dtype)
    assert lie.isfinite().all()
    lie.zero_()
    assert torch.equal(own, OWN.to(dtype))
    assert torch.equal(seen, SEEN[:num_seen].to(dtype))


def test_the_same_draw_is_the_same_lie(attack: Attack) -> None:
    assert torch.equal(attack(OWN, SEEN, rng(3)), attack(OWN, SEEN, rng(3)))


def test_facts_are_true(attack: Attack) -> None:
    own, scene = vectors(1, 9000, seed=8)[0], Scene(liars=4, history=vectors(3, 9000, 1))
    lies = [attack(own, vectors(9, 9000), rng(), to=to, scene=scene) for to in range(4)]
    assert any(not torch.equal(lies[0], lie) for lie in lies) == attack.per_recipient
    assert torch.equal(lies[0], own) == (attack.kind != "content")
    blind = attack(own, vectors(9, 9000, seed=77), rng(), scene=scene)
    if not attack.omniscient:
        assert torch.equal(blind, lies[0])
    labels = torch.arange(10)
    assert torch.equal(attack.targets(labels, 10), labels) == (attack.kind != "data")


def test_configuration_round_trips(attack: Attack) -> None:
    assert attacks.parse(attack.model_dump()) == attack


FORMULAS: list[tuple[dict[str, Any], Tensor]] = [
    ({"name": "sign-flip"}, -OWN),
    ({"name": "sign-flip", "strength": 10, "of": "mean"}, -10 * MEAN),
    ({"name": "zero"}, torch.zeros(60)),
    ({"name": "alie", "strength": 1.5}, MEAN - 1.5 * DEVIATION),
    ({"name": "foe", "strength": 1.1}, -1.1 * MEAN),
    ({"name": "foe"}, -0.1 * MEAN),
    ({"name": "mimic", "row": 4}, SEEN[4]),
    ({"name": "slow-loris"}, OWN),
    ({"name": "oversized"}, OWN),
    ({"name": "label-flip"}, OWN),
    ({"name": "equivocation", "attack": {"name": "alie", "strength": 2}}, MEAN - 2 * DEVIATION),
]


@pytest.mark.parametrize(
    ("options", "expected"), FORMULAS, ids=lambda each: str(each) if isinstance(each, dict) else ""
)
def test_it_is_what_the_formula_says(options: dict[str, Any], expected: Tensor) -> None:
    torch.testing.assert_close(attacks.parse(options)(OWN, SEEN, rng(), to=0), expected)


def test_alie_without_a_rule_takes_the_paper_s_strength() -> None:
    # 25 nodes of which 5 lie: 8 of the 20 honest must be further out; 11 lie: 2 of 14.
    assert largest_unsuspicious(25, 5) == pytest.approx(NormalDist().inv_cdf(12 / 20)) == pytest.approx(0.253, abs=1e-3)
    assert largest_unsuspicious(25, 11) == pytest.approx(1.068, abs=1e-3)
    assert largest_unsuspicious(3, 2) < math.inf
    lie = attacks.make("alie")(OWN, SEEN, rng(), scene=Scene(liars=3))
    torch.testing.assert_close(lie, MEAN - largest_unsuspicious(12, 3) * DEVIATION)


@pytest.mark.parametrize("name", ["alie", "foe"])
@pytest.mark.parametrize("rule", ["trimmed-mean", "median", "nna", "geometric-median"])
def test_a_searched_strength_does_more_harm_than_most(name: str, rule: str) -> None:
    defence = aggregators.make(rule, **({"f": 2} if rule in ("trimmed-mean", "nna") else {}))

    def harm(attack: Attack) -> float:
        lie = attack(OWN, SEEN, rng(), to=3, scene=Scene(liars=2, rule=defence))
        out = defence(SEEN[3], torch.cat([SEEN[:3], SEEN[4:], lie.repeat(2, 1)]))
        return float(torch.dist(out, MEAN))

    least = -1.0 if name == "foe" else 0.0
    fixed = [harm(attacks.make(name, strength=least + 0.25 * step)) for step in range(40)]
    found = harm(attacks.make(name))
    assert found >= np.median(fixed)
    assert found > 1.2 * fixed[0]
    assert found > 0.9 * max(fixed[:9]), "near where the search starts it misses little"


def test_climbing_finds_a_peak_in_a_few_steps() -> None:
    for peak in (0.0, 0.3, 5.0, 40.0):
        asked = list[float]()

        def value(place: float, peak: float = peak, asked: list[float] = asked) -> float:
            asked.append(place)
            return -abs(place - peak)

        assert climb(value, 16) == pytest.approx(peak, abs=0.1 * peak + 0.1)
        assert len(asked) <= 16
        assert min(asked) >= 0


def test_a_rule_that_refuses_is_not_harmed() -> None:
    lie = attacks.make("alie")(OWN, SEEN, rng(), scene=Scene(liars=1, rule=aggregators.make("krum", f=9)))
    torch.testing.assert_close(lie, MEAN)


def test_dissensus_cancels_what_the_neighbours_say_and_turns_it_round() -> None:
    weights = torch.tensor([0.0, 0.25, 0.25, 0, 0, 0, 0, 0, 0])
    scene = Scene(liars=2, recipient=0, weights=weights, liars_weight=0.3)
    lie = attacks.make("dissensus", strength=1.5)(OWN, SEEN, rng(), scene=scene)
    pull = 0.25 * (SEEN[1] - SEEN[0]) + 0.25 * (SEEN[2] - SEEN[0])
    torch.testing.assert_close(lie, SEEN[0] - 1.5 / 0.3 * pull)
    after = SEEN[0] + pull + 0.3 * (lie - SEEN[0])
    torch.testing.assert_close(after, SEEN[0] - 0.5 * pull)


def test_dissensus_with_strength_one_holds_a_plain_mean_still() -> None:
    lie = attacks.make("dissensus", strength=1)(OWN, SEEN, rng(), to=5, scene=Scene(liars=2))
    received = torch.cat([SEEN[:5], SEEN[6:], lie.repeat(2, 1)])
    torch.testing.assert_close(aggregators.make("mean")(SEEN[5], received), SEEN[5])


def test_equivocation_tells_half_of_them_the_mirror_image_of_what_it_tells_the_others() -> None:
    attack = attacks.make("equivocation", attack={"name": "alie", "strength": 2})
    even, odd = attack(OWN, SEEN, rng(), to=4), attack(OWN, SEEN, rng(), to=7)
    torch.testing.assert_close(odd, MEAN + 2 * DEVIATION)
    torch.testing.assert_close((even + odd) / 2, MEAN)


def test_equivocation_knows_who_hears_whom() -> None:
    weights = torch.zeros(9)
    weights[[2, 5]] = 0.3
    attack = attacks.make("equivocation", attack={"name": "alie", "strength": 2})
    lie = attack(OWN, SEEN, rng(), to=0, scene=Scene(recipient=4, weights=weights))
    near = SEEN[[2, 4, 5]]
    torch.testing.assert_close(lie, near.mean(0) - 2 * near.std(0))


def test_noise_has_the_distribution_it_says() -> None:
    own = torch.full((40_000,), 7.0)
    normal = attacks.make("noise", scale=2)(own, SEEN, rng())
    assert (normal.mean().item(), normal.std().item()) == pytest.approx((0, 2), abs=0.05)
    around = attacks.make("noise", scale=2, around="own")(own, SEEN, rng())
    torch.testing.assert_close(around, own + normal)
    uniform = attacks.make("noise", distribution="uniform", scale=3)(own, SEEN, rng())
    assert uniform.min() >= 0
    assert 2.9 < uniform.max() <= 3
    assert uniform.mean().item() == pytest.approx(1.5, abs=0.05)


def test_bit_flips_turn_one_bit_each_and_never_leave_nonsense() -> None:
    own = vectors(1, 50_000)[0]
    lie = attacks.make("bit-flip", share=0.1)(own, SEEN, rng())
    turned = own.numpy().view(np.uint32) ^ lie.numpy().view(np.uint32)
    counts = np.bitwise_count(turned)
    assert set(counts.tolist()) == {0, 1}
    assert 0.09 < counts.mean() < 0.11
    assert lie.isfinite().all()
    assert lie.abs().max() > 1e30


def test_stale_says_what_was_true() -> None:
    attack, history = attacks.make("stale", age=3), vectors(5, 60, seed=2)
    assert attack.memory == 3
    assert torch.equal(attack(OWN, SEEN, rng(), scene=Scene(history=history)), history[2])
    assert torch.equal(attack(OWN, SEEN, rng(), scene=Scene(history=history[:2])), history[0])
    assert torch.equal(attack(OWN, SEEN, rng(), scene=Scene(history=history[:0])), OWN)
    assert attacks.make("equivocation", attack=attack).memory == 3


def test_flipped_labels() -> None:
    flipped = attacks.make("label-flip").targets(torch.tensor([0, 3, 9]), 10)
    assert flipped.tolist() == [9, 6, 0]


@pytest.mark.parametrize(
    ("name", "options"),
    [("alie", {"strength": -1}), ("stale", {"age": 0}), ("bit-flip", {"share": 2}), ("equivocation", {"attack": "x"})],
)
def test_bad_options(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        attacks.make(name, **options)
