"""The rules under test: every registered one as it is, and the shipped ones with other options.

A new rule file is picked up by name; nothing here has to know it.
"""

from typing import Any

import hypothesis
import pytest
import torch

from p2ptrain import aggregators
from p2ptrain.aggregators import Aggregator

VARIANTS: list[dict[str, Any]] = [
    {"name": "nna", "f": 2},
    {"name": "flag", "r": 2, "lam": 1.0},
    {"name": "flag", "origin": "own"},
    {"name": "centered-clip", "tau": 2.0, "iterations": 1},
    {"name": "centered-clip", "centre": "previous"},
    {"name": "self-clip", "f": 2},
    {"name": "median", "even": "lower"},
    {"name": "trimmed-mean", "f": 2},
    {"name": "trimmed-mean", "f": 0},
    {"name": "krum", "f": 2, "others": "n-f-1", "squared": False},
    {"name": "multi-krum", "f": 2, "keep": 3},
    {"name": "meamed", "f": 2},
    {"name": "nnm", "f": 2, "rule": "krum"},
    {"name": "nnm", "f": 2, "rule": {"name": "bucketing", "size": 1}},
    {"name": "bucketing", "f": 1, "rule": "median"},
]
RULES = [aggregators.make(name) for name in aggregators.names()] + [aggregators.parse(each) for each in VARIANTS]

hypothesis.settings.register_profile("rules", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile("rules")


@pytest.fixture(params=RULES, ids=lambda rule: "-".join(str(value) for value in rule.model_dump().values()))
def rule(request: pytest.FixtureRequest) -> Aggregator:
    return request.param


@pytest.fixture(scope="session", autouse=True)
def warm() -> None:
    """Compile before the first test, not within its time-out."""
    torch.set_num_threads(1)
    for each in RULES:
        each.warm()
