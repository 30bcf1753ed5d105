"""How far a long command is, on stderr: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Final, Protocol

SECONDS_BETWEEN_LINES: Final = 10.0


class Advance(Protocol):
    """Tells how much is done; the first call is where the rate is counted from."""

    def __call__(self, done: int, total: int, amount: int | None = None, note: str = "") -> None:
        """
        Args:
          done: what is finished, also by an earlier run.
          total: how many there are, about.
          amount: what the rate counts, where that is something else than `done`.
          note: where the work is, for the lines.
        """


@contextlib.contextmanager
def progress_bar(
    unit: str, rated: str | None = None, label: str = "", seconds_between_lines: float = SECONDS_BETWEEN_LINES
) -> Iterator[Advance]:
    """Shows progress while the block runs; leaves nothing behind on a terminal.

    Args:
      unit: what is counted, in the plural: "studies".
      rated: what the rate counts, where that is something else.
      label: before the unit.
      seconds_between_lines: where there is no terminal.  Work that ends sooner prints nothing.

    Yields:
      What to call after every piece of work.
    """
    from rich.console import Console

    console = Console(stderr=True)
    rated = rated or unit
    rate = _Rate()
    if not console.is_terminal:
        last = time.monotonic()
        printed = False

        def line(done: int, total: int, amount: int | None = None, note: str = "") -> None:
            nonlocal last, printed
            value = rate.update(done if amount is None else amount)
            now = time.monotonic()
            if now - last < seconds_between_lines and not (printed and done == total):
                return
            last, printed = now, True
            other = f", {amount:,} {rated}" if amount is not None else ""
            prefix = f"{label}: " if label else ""
            suffix = f" ({note})" if note else ""
            print(f"{prefix}{done:,} of {total:,} {unit}{other}, {value} {rated}/s{suffix}", file=sys.stderr)

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as TimeLeftColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeLeftColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"{label}: {unit}" if label else unit, total=None, rate=f"0 {rated}")

        def move(done: int, total: int, amount: int | None = None, note: str = "") -> None:
            value = rate.update(done if amount is None else amount)
            bar.update(task, completed=done, total=max(total, done), rate=f"{value} {rated}")

        yield move


class _Rate:
    """Per second since the first update, so that what an earlier run did does not count."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def update(self, amount: int) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first = (now, amount)
        since, already = self._first
        rate = (amount - already) / max(now - since, 1e-3)
        return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"
