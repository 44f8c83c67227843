import io
import os
import threading
import time
from pathlib import Path

import pytest

from p2ptrain.errors import ConfigError
from p2ptrain.telemetry import events, sinks
from p2ptrain.telemetry.events import Stamped
from p2ptrain.telemetry.state import fold

LOG = [Stamped("n", float(step), events.Stepped(step, 1.0 / (step + 1), 0.1)) for step in range(100)]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = sinks.to_file(path)
    for stamped in LOG:
        lines.write(stamped)
    lines.close()
    assert sinks.read(path) == fold(LOG)
    assert lines.num_lost == 0


def test_events_arrive_while_the_file_is_open(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = sinks.Lines(path.open("w"), flush_every_s=0.01, owned=True)
    lines.write(LOG[0])
    deadline = time.monotonic() + 5
    while not path.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.read_text().count("\n") == 1
    lines.close()


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    text = "".join(events.to_json(stamped) + "\n" for stamped in LOG)
    for cut in (1, 2, 30, 60):
        path.write_text(text[:-cut])
        assert sinks.read(path) == fold(LOG[:-1] if cut > 1 else LOG)


@pytest.mark.parametrize("line", ["no json\n", "{}\n", "[]\n", '{"time": 1, "node": "n", "event": "nosuch"}\n', "3\n"])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(events.to_json(LOG[0]) + "\n" + line + events.to_json(LOG[1]) + "\n")
    with pytest.raises(ConfigError, match=r"events.jsonl:2: not an event"):
        sinks.read(path)


def test_what_is_not_there_or_not_text_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        sinks.read(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        sinks.read(tmp_path / "binary")
    with pytest.raises(ConfigError, match=r"cannot write .*: No such file"):
        sinks.to_file(tmp_path / "none" / "events.jsonl")


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_after_an_error_it_goes_quiet_and_counts() -> None:
    lines = sinks.Lines(Full(), flush_every_s=0.01)
    lines.write(LOG[0])
    deadline = time.monotonic() + 5
    while not lines.error and time.monotonic() < deadline:
        time.sleep(0.01)
    lines.write(LOG[1])
    lines.close()
    assert lines.num_lost == 2
    assert lines.error
    lines.write(LOG[2])
    assert lines.num_lost == 3


def test_a_reader_that_does_not_read_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "MAX_WAITING", 5_000)
    monkeypatch.setattr(sinks, "CLOSE_TIMEOUT_S", 0.1)
    reading, writing = os.pipe()
    lines = sinks.Lines(os.fdopen(writing, "w"), flush_every_s=0.01, owned=True)
    start = time.monotonic()
    for _ in range(200):
        for stamped in LOG:
            lines.write(stamped)
    lines.close()
    assert time.monotonic() - start < 5
    assert lines.num_lost > 0
    os.close(reading)  # now the writer's thread gets its error and ends
    for thread in threading.enumerate():
        if thread.name == "event-lines":
            thread.join(5)
    assert lines.error


def test_stamps_count_from_the_epoch() -> None:
    seen: list[Stamped] = []

    class Keep:
        def write(self, stamped: Stamped) -> None:
            seen.append(stamped)

        def close(self) -> None: ...

    sinks.Stamp("n", time.time() - 100, sinks.FanOut([Keep(), Keep()])).emit(events.Restarted())
    assert len(seen) == 2
    assert seen[0].node == "n"
    assert seen[0].time == pytest.approx(100, abs=1)
