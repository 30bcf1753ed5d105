"""Progress of long commands: a bar on a terminal, plain lines elsewhere, and no need of rich."""

import io
import re
import sys

import pytest

from optformer import progress_bar as module
from optformer.progress_bar import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        """Without colours and movements of the cursor."""
        return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", self.getvalue())


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by hand."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


def test_off_a_terminal_there_is_a_line_now_and_then(clock):
    stream = io.StringIO()
    with progress_bar("studies", rated="trials", label="wild", stream=stream) as advance:
        advance(20, 100, 400)  # an earlier run's
        for done in (30, 40, 100):
            clock.now += 8.0
            advance(done, 100, 20 * done, note="log.db")
    assert stream.getvalue().splitlines() == [
        "wild: 40 of 100 studies, 800 trials, 0:48 left, 25 trials/s (log.db)",
        "wild: 100 of 100 studies, 2,000 trials, 67 trials/s (log.db)",
    ]


def test_work_that_ends_soon_prints_nothing(clock):
    stream = io.StringIO()
    with progress_bar("studies", stream=stream) as advance:
        advance(0, 3)
        clock.now += 9.0
        advance(3, 3)
    assert stream.getvalue() == ""


def test_figures_take_the_place_of_the_rate_and_the_last_are_shown(clock):
    stream = io.StringIO()
    with progress_bar("steps", figures="compiling", stream=stream) as advance:
        advance.say("training")
        for step in (2, 3, 4):
            advance(step, 4, figures="function 6.500", note="lr 1.0e-03")
    assert stream.getvalue().splitlines() == ["training", "4 of 4 steps, function 6.500 (lr 1.0e-03)"]


def test_where_figures_are_awaited_no_rate_stands_in_for_them(clock):
    lines, terminal = io.StringIO(), Terminal()
    for stream in (lines, terminal):
        with progress_bar("steps", figures="compiling", stream=stream) as advance:
            advance(1, 9)
            clock.now += 20.0
            advance(2, 9)
    assert lines.getvalue() == ""
    assert "━ 2/9 compiling" in terminal.text()
    assert "steps/s" not in terminal.text()


def test_on_a_terminal_there_is_a_bar_and_what_is_said_stays():
    stream = Terminal()
    with progress_bar("steps", figures="compiling", stream=stream) as advance:
        assert "compiling" in stream.getvalue()
        advance(1, 2)
        advance.say("[half] way")
        advance(2, 2, figures="function 1.250  policy 3.125  41.2k tokens/s")
    lines = stream.text().splitlines()
    assert any("━ 2/2 function 1.250  policy 3.125  41.2k tokens/s 0:00:00" in line for line in lines)
    assert any("[half] way" in line for line in lines)


def test_a_bar_without_figures_shows_the_rate_and_leaves(clock):
    stream = Terminal()
    with progress_bar("studies", rated="trials", stream=stream) as advance:
        advance(0, 4, 0)
        clock.now += 2.0
        advance(4, 4, 80)
    assert "━ 4/4 40 trials/s 0:00:00 left 0:00:00" in stream.text()
    assert stream.getvalue().endswith("\x1b[2K")  # the line is erased


def test_on_a_terminal_without_rich_there_are_lines(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    stream = Terminal()
    with progress_bar("steps", figures="compiling", stream=stream) as advance:
        advance(1, 1, figures="function 6.500")
    assert stream.getvalue() == "1 of 1 steps, function 6.500\n"
