"""Progress of a long command on stderr: a bar on a terminal if rich is installed, else occasional lines."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES: Final = 10.0


@contextlib.contextmanager
def progress_bar(
    unit: str,
    rated: str | None = None,
    label: str = "",
    seconds_between_lines: float = SECONDS_BETWEEN_LINES,
    figures: str | None = None,
    stream: TextIO | None = None,
) -> Iterator["Progress"]:
    """Shows progress while the block runs.

    Args:
      unit: what is counted, in the plural: "studies".
      rated: what the rate counts; default: `unit`.
      label: text before the unit.
      seconds_between_lines: interval of the lines without a terminal.  Work that ends sooner prints nothing.
      figures: placeholder for the text that replaces the rate, shown until a call passes `figures`.  If given, no lines
        are printed before that call, and the bar stays on the terminal when the block ends.
      stream: output stream; default: stderr.

    Yields:
      A function to call after every piece of work; see `Progress.__call__`.
    """
    stream = stream or sys.stderr
    title = f"{label}: {unit}" if label else unit
    bar = _rich_bar(stream, title, figures) if stream.isatty() else None
    with bar or contextlib.nullcontext():
        yield Progress(unit, rated or unit, f"{label}: " if label else "", seconds_between_lines, stream, bar, figures)


class Progress:
    """Reports progress; the rate is measured from the first call."""

    def __init__(
        self,
        unit: str,
        rated: str,
        prefix: str,
        seconds_between_lines: float,
        stream: TextIO,
        bar: "RichProgress | None",
        figures: str | None,
    ) -> None:
        self._unit, self._rated, self._prefix = unit, rated, prefix
        self._between, self._last_line, self._printed = seconds_between_lines, time.monotonic(), False
        self._stream, self._bar, self._awaited = stream, bar, figures
        self._first: tuple[float, int, int] | None = None

    def __call__(self, done: int, total: int, amount: int | None = None, note: str = "", figures: str = "") -> None:
        """
        Args:
          done: amount finished, including by an earlier run.
          total: total amount, which may be approximate.
          amount: the amount that the rate counts; default: `done`.
          note: current position of the work, shown in lines.
          figures: text shown instead of the rate; empty if there is none yet.  The text of the last call is always
            shown.
        """
        now = time.monotonic()
        counted = done if amount is None else amount
        self._first = self._first or (now, done, counted)
        since, already, counted_already = self._first
        shown = figures or self._awaited or f"{_rate(counted - counted_already, now - since)} {self._rated}/s"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=max(total, done), shown=shown)
            return
        if self._awaited and not figures:
            return
        if now - self._last_line < self._between and not (done == total and (self._printed or figures)):
            return
        self._last_line, self._printed = now, True
        other = f", {amount:,} {self._rated}" if amount is not None else ""
        left = _time_left(now - since, done - already, total - done)
        suffix = f" ({note})" if note else ""
        self.say(f"{self._prefix}{done:,} of {total:,} {self._unit}{other}{left}, {shown}{suffix}")

    def say(self, message: str) -> None:
        """Prints a permanent line."""
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=self._stream, flush=True)


def _rich_bar(stream: TextIO, title: str, figures: str | None) -> "RichProgress | None":
    """A bar of rich; None if rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeftColumn
    except ImportError:
        return None
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[shown]}")]
    if figures is None:  # with figures, it would not fit in 80 columns
        columns += [TimeElapsedColumn(), TextColumn("left")]
    columns.append(TimeLeftColumn())
    bar = Progress(*columns, console=Console(file=stream), transient=figures is None)
    bar.add_task(title, total=None, shown=figures or "")
    return bar


def _rate(amount: int, seconds: float) -> str:
    rate = amount / max(seconds, 1e-3)
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"


def _time_left(seconds: float, done: int, remaining: int) -> str:
    """Estimate of the time left at the average rate; empty if the rate is not known or nothing remains."""
    if done <= 0 or remaining <= 0:
        return ""
    left = round(seconds / done * remaining)
    return f", {left // 60}:{left % 60:02d} left"
