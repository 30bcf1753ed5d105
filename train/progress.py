"""What a person sees of a run: a bar with losses, rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

_SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Shows the steps of a run.  Used as a context.

    Args:
      total: steps of the whole run.
      done: steps done by earlier calls.
      stream: where to; the bar needs a terminal and rich.
    """

    def __init__(self, total: int, done: int, stream: TextIO | None = None):
        self._total, self._done = total, done
        self._stream = stream or sys.stderr
        self._last_line = time.monotonic()
        # Set by the first update, so that compilation is not taken for a slow step.
        self._start: tuple[int, float] | None = None
        self._text = self._short = ""
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self._stream.isatty():
            try:
                from rich.console import Console
                from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
            except ImportError:
                pass
            else:
                self._bar = Progress(
                    TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                    BarColumn(bar_width=8),
                    TimeRemainingColumn(),
                    TextColumn("{task.description}"),
                    console=Console(file=self._stream),
                )
                self._task = self._bar.add_task("compiling", total=self._total, completed=self._done)
                self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, message: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=self._stream, flush=True)

    def update(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Moves on to `step`; `values` as of the last line of the log."""
        self._done = step
        self._start = self._start or (step, time.monotonic())
        if values:
            # On a terminal of 80 columns the bar has room for these.
            shown = ("function_loss", "policy_loss", "tokens_per_second")
            self._text, self._short = describe(values), describe({k: v for k, v in values.items() if k in shown})
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=self._short or "compiling")
            return
        now = time.monotonic()
        if self._text and (now - self._last_line >= _SECONDS_BETWEEN_LINES or step == self._total):
            self._last_line = now
            print(f"step {step}/{self._total}  {self._left(now)}{self._text}", file=self._stream, flush=True)

    def _left(self, now: float) -> str:
        start_step, start = self._start or (self._done, now)
        if start_step == self._done or self._done == self._total:
            return ""
        seconds = round((now - start) / (self._done - start_step) * (self._total - self._done))
        return f"{seconds // 60}:{seconds % 60:02d} left  "


def describe(values: Mapping[str, float]) -> str:
    """`function 2.31  policy 4.02  density +0.63  lr 1.0e-03  41k tokens/s`."""
    parts = [
        f"{label} {values[name]:{form}}"
        for name, label, form in (
            ("function_loss", "function", ".3f"),
            ("policy_loss", "policy", ".3f"),
            ("function_density", "density", "+.3f"),
            ("learning_rate", "lr", ".1e"),
        )
        if name in values
    ]
    if "tokens_per_second" in values:
        rate = values["tokens_per_second"]
        parts.append(f"{rate / 1000:.1f}k tokens/s" if rate >= 1000 else f"{rate:.0f} tokens/s")
    return "  ".join(parts)
