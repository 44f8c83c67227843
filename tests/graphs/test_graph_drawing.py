"""A graph in a terminal."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain import graphs
from p2ptrain.graphs.drawing import draw, picture, spans

RING = """\
             ⡠0⠢⡀
           ⡠⠊   ⠈⠢⡀
         ⡠⠊       ⠈⠢⡀
       ⡠⠊           ⠈⠢⡀
      3⡀              ⡨1
       ⠈⠢⡀          ⡠⠊
         ⠈⠢⡀      ⡠⠊
           ⠈⠢⡀  ⡠⠊
             ⠈2⠊

   0  hub     1, 3
   1  office  0, 2
   2  a       1, 3
   3  b       0, 2"""


def test_a_ring_of_four() -> None:
    assert draw(graphs.make("ring", n=4), ["hub", "office", "a", "b"]) == RING


@pytest.mark.parametrize("name", sorted(set(graphs.names()) - {"edges"}))
@pytest.mark.parametrize("n", [4, 16, 64])
def test_every_vertex_has_a_line_with_its_neighbours(name: str, n: int) -> None:
    graph = graphs.make(name, n=n)
    names = [f"peer-{slot}" for slot in range(n)]
    lines = draw(graph, names).splitlines()
    for slot, line in enumerate(lines[-n:]):
        number, peer, knows = line.split(maxsplit=2)
        assert (int(number), peer) == (slot, names[slot])
        assert numbers(knows) == graph.neighbours(slot)
    assert max(map(len, lines)) <= 80 or name == "geometric"


@pytest.mark.parametrize(("name", "n"), [("ring", 24), ("torus", 16), ("star", 8), ("path", 24), ("barbell", 9)])
def test_a_picture_shows_every_slot(name: str, n: int) -> None:
    shown = re.findall(r"\d+", picture(graphs.make(name, n=n)))
    assert sorted(map(int, shown)) == list(range(n))


@pytest.mark.parametrize(("name", "n"), [("ring", 65), ("complete", 64)])
def test_a_picture_that_would_be_a_blot_is_left_out(name: str, n: int) -> None:
    drawn = draw(graphs.make(name, n=n), ["x"] * n)
    assert len(drawn.splitlines()) == n


@given(slots=st.sets(st.integers(0, 60)).map(sorted))
def test_spans_say_the_same_in_fewer_words(slots: list[int]) -> None:
    assert numbers(spans(slots)) == slots


def test_spans() -> None:
    assert spans([0, 1, 2, 3, 5, 6]) == "0-3, 5, 6"
    assert spans([]) == ""


def numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in filter(None, text.split(", ")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
