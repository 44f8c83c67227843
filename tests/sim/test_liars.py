"""Swarms with liars among them, in virtual time: the same daemons, robust rules, attacks that see everything."""

from typing import Any

import pytest
from pydantic import ValidationError

from p2ptrain.simulation.loop import run
from p2ptrain.simulation.world import World
from p2ptrain.telemetry.events import (
    Evaluated,
    Exchanged,
    Failed,
    Finished,
    Noted,
    Rejected,
    Stamped,
    Started,
    Stepped,
    Suspected,
)
from p2ptrain.topology import Topology

RUN = {
    "task": {"name": "quadratic", "dim": 40}, "steps": 40, "evaluate_every": 100, "codec": "fp32",
    "strategy": {"name": "monna", "lr": 8.0}, "data": {"split": "dirichlet", "alpha": 1.0},
}  # fmt: skip


def topology(attack: Any, rule: Any, honest: int = 6, liars: int = 2, **more: Any) -> Topology:
    nodes = [{"count": honest}, {"count": liars, "name": "liar", "attack": attack}] if liars else [{"count": honest}]
    body = {"name": "liars", "run": {**RUN, "aggregator": rule, **more.pop("run", {})}, "nodes": nodes}
    return Topology.model_validate({**body, "simulation": {"step": 0.2}, "node": {"heartbeat": 1}, **more})


def outcome(file: Topology) -> tuple[float, float, list[Stamped]]:
    """First loss, the worst honest node's last one, and everything that was said."""
    log: list[Stamped] = []

    async def main() -> None:
        await World(file, log.append).run(3600.0)

    run(main())
    losses = [(stamped.node, stamped.event.loss) for stamped in log if isinstance(stamped.event, Evaluated)]
    last = {node: loss for node, loss in losses if node not in file.attackers}
    return losses[0][1], max(last.values()), log


def test_without_liars_all_rules_learn() -> None:
    for rule in ("mean", {"name": "nna", "f": 1}):
        first, last, log = outcome(topology("zero", rule, honest=5, liars=0))
        assert last < 0.1 * first
        assert sum(isinstance(stamped.event, Exchanged) for stamped in log) > 100


@pytest.mark.parametrize("attack", ["sign-flip", {"name": "foe", "strength": 4}, {"name": "noise", "scale": 20}])
def test_a_robust_rule_bears_liars_that_the_mean_does_not(attack: Any) -> None:
    first, robust, log = outcome(topology(attack, {"name": "nna", "f": 2}))
    assert robust < 0.2 * first
    assert not [stamped for stamped in log if isinstance(stamped.event, Rejected)]
    _, plain, _ = outcome(topology(attack, "mean"))
    assert plain > 5 * robust


def test_synchronous_rounds_wait_for_each_other() -> None:
    strategy = {**RUN["strategy"], "wait": 5.0}  # type: ignore[dict-item]
    nodes = [{"count": 3, "device": "rtx3060"}, {"count": 1, "device": "macbook-m2"}]
    log = outcome(topology("zero", {"name": "nna", "f": 1}, run={"strategy": strategy, "steps": 8}, nodes=nodes))[2]
    ends = {stamped.node: stamped.time for stamped in log if isinstance(stamped.event, Finished)}
    assert max(ends.values()) < 1.3 * min(ends.values())


def test_synchronous_rounds_of_equals_take_as_long_as_their_slowest_step() -> None:
    strategy = {**RUN["strategy"], "wait": 5.0}  # type: ignore[dict-item]
    log = outcome(topology("zero", {"name": "nna", "f": 1}, honest=5, liars=0, run={"strategy": strategy}))[2]
    begun = max(stamped.time for stamped in log if isinstance(stamped.event, Evaluated) and stamped.event.step == 0)
    ended = max(stamped.time for stamped in log if isinstance(stamped.event, Finished))
    assert ended - begun < 40 * 0.2 * 1.4
    assert {stamped.event.reason for stamped in log if isinstance(stamped.event, Failed)} <= {"not-ready"}


def test_a_node_with_too_few_neighbours_left_keeps_its_own_vector_and_says_so() -> None:
    faults = [{"at": 3, "kill": ["node-2", "node-3"]}]
    _, _, log = outcome(topology("zero", {"name": "nna", "f": 1}, honest=4, liars=0, faults=faults))
    notes = [stamped.event.message for stamped in log if isinstance(stamped.event, Noted) and stamped.time > 3]
    assert sum("nna needs 2 vectors from peers, got 1" in note for note in notes) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"liars": 3}, "node-0 has 3 lying neighbours, and nna with f: 2 bears 2"),
        ({"run": {"strategy": "gossip"}}, "a swap brings one; use the strategy monna"),
        ({"run": {"codec": "topk"}}, "rules need all of it"),
        ({"nodes": [{"count": 2, "attack": "alie"}]}, "all nodes lie"),
    ],
)
def test_what_no_rule_could_bear_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        topology("alie", {"name": "nna", "f": 2}, **changes)


def test_runs_with_liars_repeat() -> None:
    def trace() -> str:
        async def main() -> str:
            world = World(topology("alie", {"name": "nna", "f": 2}, run={"steps": 6}))
            await world.run(3600.0)
            return world.trace

        return run(main())

    assert trace() == trace()


def test_a_node_whose_labels_are_flipped_learns_from_them_and_the_others_do_not() -> None:
    """It is honest in what it says; what it says it has learned wrongly."""
    digits = {"task": {"name": "digits", "hidden": 32}, "strategy": {"name": "monna", "lr": 0.5, "wait": 5.0}}
    file = topology("label-flip", {"name": "nna", "f": 1}, honest=3, liars=1, run=digits)
    log = outcome(file)[2]
    losses: dict[str, list[float]] = {}
    for stamped in log:
        if isinstance(stamped.event, Stepped):
            losses.setdefault(stamped.node, []).append(stamped.event.loss)
    last = {node: sum(values[-5:]) / 5 for node, values in losses.items()}
    assert last.pop("liar") > 2 * max(last.values())
    assert not [stamped for stamped in log if isinstance(stamped.event, Rejected)]


@pytest.mark.parametrize(
    ("attack", "said", "reason"),
    [({"name": "slow-loris", "bytes_per_s": 5.0}, Failed, "deadline"), ("oversized", Rejected, "oversized")],
)
@pytest.mark.parametrize("strategy", ["monna", "gossip"])
def test_who_breaks_the_protocol_is_named_and_costs_no_steps(
    attack: Any, said: type[Failed | Rejected], reason: str, strategy: str
) -> None:
    rule = {"name": "nna", "f": 1} if strategy == "monna" else "mean"
    settings = {"strategy": {"name": strategy, "lr": 8.0}, "steps": 120}
    first, last, log = outcome(topology(attack, rule, honest=4, liars=1, run=settings))
    assert last < 0.2 * first
    peers = {stamped.event.peer: stamped.node for stamped in log if isinstance(stamped.event, Started)}
    named = {
        stamped.node: peers[stamped.event.peer]
        for stamped in log
        if isinstance(stamped.event, said) and stamped.event.reason == reason and stamped.node != "liar"
    }
    assert set(named.values()) == {"liar"}
    assert strategy == "gossip" or len(named) == 4  # a swap is with one peer, and not everyone meets the liar in time
    finished = {stamped.node: stamped.event.step for stamped in log if isinstance(stamped.event, Finished)}
    assert {finished[f"node-{slot}"] for slot in range(4)} == {120}
    begun = max(stamped.time for stamped in log if isinstance(stamped.event, Evaluated) and stamped.event.step == 0)
    assert max(s.time for s in log if isinstance(s.event, Finished) and s.node != "liar") - begun < 120 * 0.2 * 1.4


def suspicions(log: list[Stamped]) -> dict[tuple[str, str], str]:
    """(who, of whom): the gravest thing that it thought."""
    peers = {stamped.event.peer: stamped.node for stamped in log if isinstance(stamped.event, Started)}
    found: dict[tuple[str, str], str] = {}
    for stamped in log:
        if isinstance(stamped.event, Suspected) and stamped.event.level != "readmitted":
            key = (stamped.node, peers[stamped.event.peer])
            found[key] = stamped.event.level if found.get(key) != "quarantined" else "quarantined"
    return found


def test_who_tells_different_things_to_different_peers_is_proven_to_lie_and_spoils_not_even_the_mean() -> None:
    attack = {"name": "equivocation", "attack": {"name": "foe", "strength": 4}}
    first, last, log = outcome(topology(attack, "mean", run={"steps": 100}))
    honest, liars = [f"node-{slot}" for slot in range(6)], ("liar-0", "liar-1")
    quarantined = {pair for pair, level in suspicions(log).items() if level == "quarantined" and pair[0] in honest}
    assert quarantined == {(node, liar) for node in honest for liar in liars}
    proven = max(s.time for s in log if isinstance(s.event, Suspected) and s.event.reason == "equivocation")
    begun = max(s.time for s in log if isinstance(s.event, Evaluated) and s.event.step == 0)
    assert proven - begun < 8.0  # a few comparisons, one a second
    assert last < 0.2 * first


def test_one_lie_for_all_is_not_equivocation_and_one_far_off_is_suspected() -> None:
    found = suspicions(outcome(topology({"name": "foe", "strength": 4}, {"name": "nna", "f": 2}))[2])
    assert {level for (who, _), level in found.items() if who.startswith("node")} == {"suspected"}
    assert {whom for who, whom in found if who.startswith("node")} == {"liar-0", "liar-1"}


def test_a_rule_need_not_bear_those_that_are_shunned() -> None:
    """Multi-Krum with f = 2 asks for six vectors; of five honest nodes each has four others."""
    log = outcome(topology("equivocation", {"name": "multi-krum", "f": 2}, honest=5, run={"steps": 60}))[2]
    shunned = min(s.time for s in log if isinstance(s.event, Suspected) and s.event.level == "quarantined")
    notes = [s for s in log if isinstance(s.event, Noted) and s.node.startswith("node") and s.time > shunned]
    assert not [note for note in notes if "needs" in note.event.message]  # type: ignore[attr-defined]
