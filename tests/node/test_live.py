import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from node import live, units
from node.live import LiveView, PlainView, Run
from p2ptrain.telemetry import events
from p2ptrain.telemetry.events import Stamped
from p2ptrain.telemetry.state import SwarmState, apply, expecting, fold

NAMES = ("node-0", "node-1", "node-2", "node-3")
RUN = Run("quick", seconds=60)


def terminal(width: int = 130, height: int = 30) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, legacy_windows=False)


def text_of(state: SwarmState, now: float, width: int = 130, height: int = 30) -> str:
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(live.dashboard(RUN, state, now, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(log: Sequence[Stamped]) -> str:
    file, state = io.StringIO(), expecting(NAMES)
    view = PlainView(RUN, Console(file=file))
    for stamped in log:
        state = apply(state, stamped)
        view.event(stamped, state)
        view.refresh(state, stamped.time)
    return file.getvalue()


def test_the_table_has_a_row_for_each_node(log: list[Stamped]) -> None:
    shown = text_of(fold([stamped for stamped in log if stamped.time < 33], expecting(NAMES)), 33)
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line.startswith("node-")}
    assert set(rows) == set(NAMES)
    assert rows["node-0"][1:3] == ["training", "600"]
    assert rows["node-2"][1] == "dead"
    assert "3 of 4 nodes alive" in shown
    assert "MB/s" in shown
    assert "node-2: died (signal 9)" in shown
    assert "33 s elapsed" in shown
    assert "left" in shown


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160])
@pytest.mark.parametrize("height", [6, 12, 40])
def test_the_table_fits_the_terminal(state: SwarmState, width: int, height: int) -> None:
    lines = text_of(state, 60, width, height).splitlines()
    assert max(map(len, lines)) <= width
    if height >= 16:
        assert len(lines) < height


def test_a_large_swarm_is_cut_to_the_height() -> None:
    shown = text_of(expecting(f"node-{index}" for index in range(300)), 1, 120, 30)
    assert len(shown.splitlines()) < 30
    assert "more nodes" in shown


def test_before_anything_has_happened() -> None:
    shown = text_of(expecting(NAMES), 0.0)
    assert "starting" in shown
    assert "0%" in shown


def test_the_terminal_is_redrawn_at_most_four_times_a_second(state: SwarmState) -> None:
    console = terminal()
    view = LiveView(RUN, console)
    assert isinstance(console.file, io.StringIO)
    view.refresh(state, 10.0)
    drawn = len(console.file.getvalue())
    for now in (10.01, 10.1, 10.24):
        view.refresh(state, now)
    assert len(console.file.getvalue()) == drawn
    view.refresh(state, 10.26)
    assert len(console.file.getvalue()) > drawn
    view.say("a word")
    view.close()
    assert "a word" in console.file.getvalue()


def test_views_fit_where_they_go() -> None:
    assert isinstance(live.view(RUN, Console(file=io.StringIO())), PlainView)
    view = live.view(RUN, terminal())
    assert isinstance(view, LiveView)
    view.close()


def test_plain_lines_tell_the_story(log: list[Stamped]) -> None:
    lines = plain(log).splitlines()
    story = [line.split("  ", 1)[1].strip() for line in (line.strip() for line in lines)]
    for told in (
        "node-0 is up at 127.0.0.1:4000 as 00000000 on cpu",
        "node-0 sees node-3, 3 peers",
        "node-2 died (signal 9)",
        "node-0 lost node-2 (silent)",
        "node-2 starts again",
        "node-2 goes on from its checkpoint at step 180",
        "node-1: bootstrap 127.0.0.1:4000 does not answer",
        "node-3 stopped at step 285",
    ):
        assert told in story
    status = [line for line in story if "alive" in line]
    assert 10 <= len(status) <= 13
    assert "4/4 alive" in status[0]
    assert "accuracy" in status[-1]


def test_faults_are_shown_where_they_belong_to_no_node() -> None:
    fault = Stamped("", 7.0, events.Faulted(0, "shape", "partition eu | us", "a>b b>a"))
    assert "7 s  fault: partition eu | us" in plain([fault])
    assert "7 s  partition eu | us" in text_of(fold([fault], expecting(NAMES)), 8)


def test_plain_lines_have_no_control_characters(log: list[Stamped]) -> None:
    evil = Stamped("node-0", 99.0, events.Noted("warning", "\x1b[2J\x07gone\r\nnext"))
    shown = plain([*log, evil])
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert "gone" in shown


def test_notes_do_not_command_the_terminal() -> None:
    noted = Stamped("\x1b[31mnode", 1.0, events.Noted("error", "\x1b[2J[bold]x[/bold]"))
    shown = text_of(apply(SwarmState(), noted), 2)
    assert "\x1b" not in shown
    assert "[bold]x[/bold]" in shown


def test_the_first_to_notice_a_loss_speaks_for_all() -> None:
    left = events.Left("bb", "b", "silent")
    again = [Stamped("a", 2, events.Joined("bb", "b")), Stamped("a", 3, left)]
    shown = plain([Stamped("a", 1, left), Stamped("c", 1, left), *again])
    assert shown.count("lost b (silent)") == 2


def test_progress_follows_the_limit_that_comes_first() -> None:
    state = fold([Stamped("a", 10.0, events.Stepped(0, 1.0, 0.1)), Stamped("a", 20.0, events.Stepped(30, 1.0, 0.1))])
    assert Run("x", steps=100, seconds=100).progress(state, 20) == pytest.approx(0.3)
    assert Run("x", steps=1000, seconds=100).progress(state, 20) == pytest.approx(0.1)
    assert Run("x", seconds=5).progress(state, 20) == 1.0
    assert Run("x").progress(state, 20) is None
    dead = apply(state, Stamped("b", 20, events.Died(1)))
    assert Run("x", steps=100).progress(dead, 20) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.size(None), "-"),
        (units.size(999), "999 B"),
        (units.size(12_345), "12.3 kB"),
        (units.rate(2.5e6), "2.5 MB/s"),
        (units.number(0.95), "0.950"),
        (units.number(12.345), "12.3"),
        (units.number(1234.5), "1234"),
        (units.number(1.2e-5, 2), "1.2e-05"),
        (units.number(float("nan")), "nan"),
        (units.duration(59.4), "59 s"),
        (units.duration(125), "2:05"),
        (units.duration(3725), "1:02:05"),
        (units.duration(None), "-"),
    ],
)
def test_numbers_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected
