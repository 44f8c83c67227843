"""What a broker says, truly or not, as the state of swarms."""

import io
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from node import live
from p2ptrain.telemetry import events
from p2ptrain.telemetry.events import Event, Stamped, to_json
from p2ptrain.telemetry.mqtt import MAX_MESSAGE
from p2ptrain.telemetry.mqtt_reader import MAX_NODES, Reader

A, B = "aa" * 16, "bb" * 16
ONLINE = {"status": "online", "name": "node-0", "slot": 0, "phase": "training", "device": "cpu"}
FIGURES = {
    "step": 50, "smooth_loss": 1.5, "eval_loss": 1.25, "accuracy": 0.5, "peers": [B], "bytes_sent": 1000,
    "bytes_received": 2000, "exchanges": 7, "failed": {"deadline": 2},
}  # fmt: skip
WILL = {"status": "offline", "name": "node-0", "slot": 0}


def say(reader: Reader, peer: str, body: dict[str, Any], now: float = 0.0, run: str = "run") -> Stamped | None:
    return reader.take(f"p2ptrain/{run}/{peer}/status", json.dumps(body).encode(), now)


def tell(reader: Reader, peer: str, event: Event, now: float = 0.0, name: str = "node-0", run: str = "run") -> None:
    kind = type(event).__name__.lower()
    assert reader.take(f"p2ptrain/{run}/{peer}/{kind}", to_json(Stamped(name, 1e6, event)).encode(), now)


def shown(reader: Reader) -> str:
    console = Console(file=io.StringIO(), width=150, height=40)
    console.print(live.dashboard(live.Run("run"), reader.state, 60.0, 150, 40))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_who_comes_late_sees_it_all() -> None:
    reader = Reader("run")
    assert say(reader, A, ONLINE | FIGURES) is None
    tell(reader, A, events.Exchanged(B, 10, 20, 0.1, 0.1, True), 1.0)
    tell(reader, A, events.Left(B, "node-1", "silent"), 1.0)
    node = reader.state.nodes["node-0"]
    assert (node.phase, node.step, node.accuracy, node.peers) == ("training", 50, 0.5, frozenset())
    assert (node.bytes_sent, node.bytes_received, node.exchanges, node.num_failed) == (1010, 2020, 8, 2)
    assert reader.state.name_of(A) == "node-0"
    assert "1.500" in shown(reader) or "1.50" in shown(reader)


def test_what_happened_before_is_no_speed() -> None:
    reader = Reader("run")
    say(reader, A, ONLINE | {"peers": []})
    tell(reader, A, events.Stepped(1_000_000, 1.0, 0.1), 10.0)
    say(reader, A, ONLINE | FIGURES | {"step": 1_000_000, "bytes_sent": 10**12}, 10.1)
    tell(reader, A, events.Stepped(1_000_010, 1.0, 0.1), 12.0)
    rates = reader.state.nodes["node-0"].rates(12.0)
    assert rates is None or rates[0] < 100


def test_a_last_will_takes_a_node_off_until_it_comes_back() -> None:
    reader = Reader("run")
    say(reader, A, ONLINE | FIGURES)
    say(reader, B, ONLINE | {"name": "node-1"})
    lost = say(reader, A, WILL, 5.0)
    assert lost is not None
    assert lost.event == events.Offline()
    assert reader.state.nodes["node-0"].phase == "offline"
    assert reader.state.nodes["node-0"].step == 50
    assert reader.state.num_alive == 1
    assert "offline" in shown(reader)
    assert "1 of 2 nodes alive" in shown(reader)
    assert say(reader, A, WILL, 6.0) is None
    say(reader, A, ONLINE, 7.0)
    assert reader.state.nodes["node-0"].phase == "training"
    assert reader.state.num_alive == 2


def test_who_left_in_order_is_not_lost() -> None:
    reader = Reader("run")
    say(reader, A, ONLINE | FIGURES)
    tell(reader, A, events.Stopped(60, "digest"))
    assert say(reader, A, ONLINE | FIGURES | {"status": "offline", "phase": "stopped", "step": 60}) is None
    assert reader.state.nodes["node-0"].phase == "stopped"
    say(reader, B, ONLINE | FIGURES | {"status": "offline", "phase": "stopped", "name": "of-old"})
    assert set(reader.state.nodes) == {"node-0"}


def test_who_crashed_after_its_training_is_lost() -> None:
    reader = Reader("run")
    say(reader, A, ONLINE | FIGURES)
    assert say(reader, A, ONLINE | FIGURES | {"status": "offline", "phase": "training"}) is not None
    assert reader.state.nodes["node-0"].phase == "offline"


def test_two_nodes_of_one_name_are_told_apart_and_a_dead_one_gives_its_name_back() -> None:
    reader = Reader("run")
    say(reader, A, ONLINE | FIGURES)
    say(reader, B, ONLINE | {"step": 3})
    assert {name: node.step for name, node in reader.state.nodes.items()} == {"node-0": 50, "node-0 bbbbbb": 3}
    say(reader, A, WILL)
    say(reader, "cc" * 16, ONLINE | {"step": 4})
    assert {name: node.step for name, node in reader.state.nodes.items()} == {"node-0": 4, "node-0 bbbbbb": 3}
    say(reader, "dd" * 16, WILL)
    assert len(reader.state.nodes) == 2


def test_all_runs_or_one() -> None:
    reader = Reader()
    say(reader, A, ONLINE, run="one")
    tell(reader, B, events.Stepped(1, 1.0, 0.1), run="other")
    assert set(reader.state.nodes) == {"one/node-0", "other/node-0"}
    assert (reader.topic, Reader("one").topic) == ("p2ptrain/+/+/+", "p2ptrain/one/+/+")


def test_times_are_the_readers() -> None:
    reader = Reader("run")
    tell(reader, A, events.Stepped(1, 1.0, 0.1), 10.0)
    tell(reader, A, events.Stepped(21, 1.0, 0.1), 12.0)
    assert reader.state.time == 12.0
    rates = reader.state.nodes["node-0"].rates(12.0)
    assert rates
    assert rates[0] == pytest.approx(10)


def test_no_more_nodes_than_fit() -> None:
    reader = Reader("run")
    for index in range(MAX_NODES + 10):
        say(reader, f"{index:032x}", ONLINE | {"name": f"node-{index}"})
    assert len(reader.state.nodes) == MAX_NODES
    assert reader.num_refused == 10


STEPPED = {"time": 1.0, "node": "n", "event": "stepped", "step": 1, "loss": 1.0, "seconds": 0.1}


@pytest.mark.parametrize(
    "body",
    [
        {**STEPPED, "step": "1"},
        {**STEPPED, "step": None},
        {**STEPPED, "step": 1 << 63},
        {**STEPPED, "loss": 10**400},
        {**STEPPED, "loss": "x"},
        {**STEPPED, "time": None},
        {**STEPPED, "time": float("inf")},
        {**STEPPED, "node": ["n"]},
        {**STEPPED, "event": "event"},
        {**STEPPED, "more": 1},
        [STEPPED],
        None,
    ],
)
def test_an_event_with_a_wrong_value_is_refused(body: Any) -> None:
    reader = Reader("run")
    assert reader.take(f"p2ptrain/run/{A}/stepped", json.dumps(body).encode(), 1.0) is None
    assert reader.num_refused == 1
    assert not reader.state.nodes


@pytest.mark.parametrize("payload", [b"[" * 50_000, b"\xff", b"", None, "text", b" " * MAX_MESSAGE + b"{}"])
@pytest.mark.parametrize("kind", ["status", "stepped"])
def test_what_is_no_message_is_refused(kind: str, payload: Any) -> None:
    reader = Reader("run")
    assert reader.take(f"p2ptrain/run/{A}/{kind}", payload, 1.0) is None
    assert reader.num_refused == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def near_events(draw: st.DrawFn) -> tuple[str, bytes]:
    """Events of every type, each field of its type or not."""
    cls = draw(st.sampled_from(Event.__subclasses__()))
    body: dict[str, Any] = {"time": draw(st.floats()), "node": draw(st.text(max_size=5)), "event": cls.__name__.lower()}
    body |= {field: draw(st.from_type(kind)) for field, kind in cls.__annotations__.items()}
    body |= draw(st.dictionaries(st.sampled_from([*body]), JSON, max_size=1))
    return f"p2ptrain/run/{draw(st.sampled_from([A, B]))}/{cls.__name__.lower()}", json.dumps(body).encode()


@st.composite
def near_statuses(draw: st.DrawFn) -> tuple[str, bytes]:
    body = {**ONLINE, **FIGURES, **draw(st.dictionaries(st.sampled_from([*ONLINE, *FIGURES]), JSON, max_size=2))}
    body["name"] = draw(st.sampled_from(["a", "b"]))
    body["status"] = draw(st.sampled_from(["online", "offline"]))
    return f"p2ptrain/run/{draw(st.sampled_from([A, B]))}/status", json.dumps(body).encode()


MESSAGES = near_events() | near_statuses() | st.tuples(st.text(), st.binary())


@given(st.lists(MESSAGES, max_size=12))
@example([(f"p2ptrain/run/{A}/joined", b'{"time": 0.0, "node": "", "event": "joined", "peer": "", "name": ""}')])
def test_whatever_is_said_can_be_shown(messages: list[tuple[str, bytes]]) -> None:
    reader, file = Reader("run"), io.StringIO()
    view = live.PlainView(live.Run("run"), Console(file=file), every_s=0.0)
    num_folded = 0
    for index, (topic, payload) in enumerate(messages):
        stamped = reader.take(topic, payload, float(index))
        if stamped:
            num_folded += 1
            view.event(stamped, reader.state)
        view.refresh(reader.state, float(index))
    assert "nodes alive" in shown(reader)
    assert num_folded + reader.num_refused <= len(messages)
