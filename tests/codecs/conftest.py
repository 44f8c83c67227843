"""The codecs under test: every registered one as it is, and the shipped ones with other options.

A new codec file is picked up by name; nothing here has to know it.
"""

from typing import Any

import hypothesis
import pytest

from p2ptrain import codecs
from p2ptrain.codecs import Codec, _kernels

VARIANTS: list[dict[str, Any]] = [
    {"name": "int8", "stochastic": True},
    {"name": "int8", "block": 100},
    {"name": "int4", "block": 10},
    {"name": "topk", "ratio": 0.3, "values": "fp16"},
    {"name": "randk", "ratio": 0.3, "values": "fp16"},
    {"name": "topk", "ratio": 1},
    {"name": "randk", "ratio": 1},
]
CODECS = [codecs.make(name) for name in codecs.names()] + [codecs.parse(variant) for variant in VARIANTS]

hypothesis.settings.register_profile("codecs", derandomize=True, deadline=None, max_examples=40)
hypothesis.settings.load_profile("codecs")


@pytest.fixture(params=CODECS, ids=lambda codec: "-".join(str(value) for value in codec.model_dump().values()))
def codec(request: pytest.FixtureRequest) -> Codec:
    return request.param


@pytest.fixture(scope="session", autouse=True)
def warm() -> None:
    """Compile before the first test, not within its time-out."""
    for each in CODECS:
        each.warm()


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kernels, "load", lambda family: None)
