"""The JSON schema takes what the models take, and refuses what a person is likely to get wrong."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from p2ptrain import aggregators, codecs, graphs, strategies
from p2ptrain.topology import Topology
from p2ptrain.topology.faults import KINDS
from p2ptrain.topology.schema import schema
from p2ptrain.training import tasks

SCHEMA = schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
TOPOLOGIES = sorted((Path(__file__).parents[2] / "topologies").glob("*.yaml"))
NODES = [{"count": 2, "site": "eu"}, {"count": 2, "site": "us"}]
WAY = {"from": "eu", "to": ["us", "node-1"]}


def body(**other: Any) -> dict[str, Any]:
    return {"run": {"task": "digits", "steps": 5}, "nodes": NODES, **other}


def run(**settings: Any) -> dict[str, Any]:
    return body(run={"task": "digits", "steps": 5, **settings})


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_shipped_topologies_are_valid(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text()))


ONE_OF_EACH_FAULT: list[dict[str, Any]] = [
    {"at": "5s", "kill": "node-0"},
    {"at": 5, "kill": ["node-0", "us"], "for": "2min"},
    {"at": 0, "stop": "all"},
    {"at": 0, "start": "node-0..node-2"},
    {"at": 0, "pause": "eu", "for": 1},
    {"at": 0, "tear": "eu"},
    {"at": 0, "partition": ["eu", ["node-2", "node-3"]]},
    {"at": 0, "cut": WAY, "for": "20ms"},
    {"at": 0, "degrade": WAY, "link": {"latency": "1s", "loss": "0.5%", "bandwidth": "100Mbit"}},
    {"at": 0, "flap": WAY, "every": 2, "down": 1, "for": 9},
    {"at": 0, "reset": WAY},
    {"at": 0, "skew": "eu", "by": "-5s"},
    {"at": 0, "churn": "all", "for": "1h", "session": 60, "away": "20s", "shape": 0.5},
]

GOOD = [
    *(body(faults=[fault]) for fault in ONE_OF_EACH_FAULT),
    run(codec="int4"),
    run(codec={"name": "topk", "ratio": 0.5}),
    run(codec={"block": 64}),
    run(strategy={"rate": 0.5}),
    run(strategy="local"),
    run(task={"name": "digits", "network": "cnn"}),
    body(graph={"kind": "ring", "n": 4}),
    body(graph={"name": "edges", "edges": [[0, 1], [1, 2], [2, 3]]}),
    body(graph={"kind": "ring", "n": 4, "schedule": [{"at": 0.5, "kind": "star"}]}),
    body(node={"heartbeat": 1}),
    body(links={"default": {"latency": 0.1}, "eu-us": {"bandwidth": 1e6}}),
    body(expect={"accuracy": ">= 0.9", "alive": 4, "views": "<2"}),
    body(simulation={"step": "10ms", "members": "table"}),
]
BAD = [
    body(faults=[{"at": 0, "kill": "node-0", "pause": "node-1", "for": 1}]),
    body(faults=[{"at": 0, "maim": "node-0"}]),
    body(faults=[{"at": 0, "pause": "node-0"}]),
    body(faults=[{"at": "5 lightyears", "kill": "node-0"}]),
    body(faults=[{"at": 0, "kill": []}]),
    body(faults=[{"at": 0, "degrade": WAY, "link": {"latancy": 1}}]),
    body(faults=[{"at": 0, "kill": "node-0", "how": "gently"}]),
    run(codec="zip"),
    run(codec={"name": "int8", "ratio": 0.5}),
    run(codec={"ratio": 0.5}),
    run(strategy={"name": "gossip", "rates": 0.5}),
    run(task=5),
    run(stepz=5),
    body(graph={"kind": "ring"}),
    body(graph={"kind": "ring", "n": 4, "radius": 1}),
    body(graph={"n": 4}),
    body(graph={"kind": "ring", "n": 4, "schedule": [{"kind": "star"}]}),
    body(graph={"kind": "ring", "n": 4, "schedule": [{"at": 1.5, "kind": "star"}]}),
    body(graph="ring"),
    body(node={"heartbeet": 1}),
    body(nodes=[{"count": 0}]),
    body(expect={"speed": ">= 1"}),
    body(expect={"accuracy": "high"}),
    body(links={"default": {"latency": "fast"}}),
    {"nodes": NODES},
]


@pytest.mark.parametrize("value", GOOD, ids=str)
def test_what_the_models_take_it_takes(value: dict[str, Any]) -> None:
    Topology.model_validate(value)
    VALIDATOR.validate(value)


@pytest.mark.parametrize("value", BAD, ids=str)
def test_what_the_models_refuse_it_refuses(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Topology.model_validate(value)
    assert not VALIDATOR.is_valid(value)


def test_a_task_of_one_s_own_is_taken() -> None:
    VALIDATOR.validate(run(task="./mine.py"))
    VALIDATOR.validate(run(task={"name": "./mine.py", "anything": 3}))
    assert not VALIDATOR.is_valid(run(task="./mine.txt"))


def test_every_registered_component_and_fault_is_in_it() -> None:
    text = str(SCHEMA)
    for module in (aggregators, codecs, graphs, strategies, tasks):
        for name in module.names():
            assert f"{{'const': '{name}'}}" in text
    assert {next(verb for verb in KINDS if verb in fault) for fault in ONE_OF_EACH_FAULT} == set(KINDS)


def test_editors_can_say_what_a_key_means() -> None:
    definitions = SCHEMA["$defs"]
    assert definitions["Gossip"]["properties"]["rate"]["description"].startswith("Gossip events that this node starts")
    assert definitions["Gossip"]["properties"]["lr"]["description"], "inherited fields too"
    assert definitions["Degrade"]["description"].startswith("Another link for a while")
    assert SCHEMA["properties"]["links"]["description"].startswith("By `default`, site")
