"""Sums of metrics over steps, rates, and their log: `metrics.jsonl`, and TensorBoard if it is installed."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optformer.files import write_atomically

PER_STEP = ("loss", "learning_rate", "gradient_norm")
"""Metrics that are averaged over steps; losses are averaged over the weight of their tokens."""


class Window:
    """Sums of what `step.measure` returns, over the steps of one line of the log.

    They are part of every checkpoint, so a run that resumes in the middle of a line writes the same line as an
    uninterrupted run.
    """

    def __init__(self, sums: Mapping[str, float] | None = None):
        self.sums: dict[str, float] = dict(sums or {})

    def add(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """`loss`, `policy_loss`, `function_loss`, `function_density` in nats per token, and the metrics per step.

        Losses whose tokens had no weight are left out.  `skipped_steps` is a count, and left out if it is 0.
        """
        sums, means = self.sums, {}
        for name in PER_STEP:
            if name in sums:
                means[name] = sums[name] / sums["steps"]
        for name, weight in (
            ("policy_loss", "policy_weight"),
            ("function_loss", "function_weight"),
            ("experts_loss", "function_weight"),
            ("function_density", "function_density_weight"),
        ):
            if sums.get(weight, 0.0) > 0 and name in sums:
                means[name] = sums[name] / sums[weight]
        if sums.get("skipped_steps"):
            means["skipped_steps"] = sums["skipped_steps"]
        return means


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


class Clock:
    """Studies and tokens per second since the last line; the first step, which compiles, does not count."""

    def __init__(self) -> None:
        self._started = False
        self.restart()

    def restart(self) -> None:
        self._since, self._studies, self._tokens = time.monotonic(), 0.0, 0.0

    def add(self, values: dict[str, float]) -> None:
        if not self._started:
            self._started = True
            self.restart()
            return
        self._studies += values["studies"]
        self._tokens += values["tokens"]

    def rates(self) -> dict[str, float]:
        seconds = time.monotonic() - self._since
        if not self._studies:
            return {}
        rates = {"studies_per_second": self._studies / seconds, "tokens_per_second": self._tokens / seconds}
        self.restart()
        return rates


class MetricsLog:
    """Appends lines to `metrics.jsonl`, flushed one by one, and scalars to TensorBoard.

    Every line has `step` (steps done) and `kind` (`train`, `validation_prior`, `validation_corpus`); a step appears
    once per kind, also in a run that was killed and resumed.
    """

    def __init__(self, workdir: Path, restored_step: int):
        """Opens the log of a run that continues after `restored_step` and drops the lines beyond it."""
        self.path = workdir / "metrics.jsonl"
        cut_back(self.path, restored_step)
        self._file = self.path.open("a", encoding="utf-8")
        self._tensorboard: Any = None
        self.tensorboard_missing = False
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            self.tensorboard_missing = True
        else:
            # Hides steps from here on that a killed call has written.
            self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=restored_step + 1)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def cut_back(path: Path, step: int) -> None:
    """Drops the lines of `metrics.jsonl` after `step`, and an incomplete last line."""
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if _belongs(line, step)]
    write_atomically(path, "".join(kept))


def read_metrics(path: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The lines of one kind, in order of steps."""
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == kind]


def _belongs(line: str, step: int) -> bool:
    if not line.endswith("\n"):
        return False
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False
