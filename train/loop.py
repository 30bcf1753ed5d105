"""The training loop: from a config and a working directory to exported weights.

A working directory holds `config.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/` and `export/`, the averaged
weights that `OptFormer.from_pretrained(workdir)` reads.  The same call on the same directory resumes the run, however
the last call ended.

All processes of a run execute this module in lockstep; only the first one writes logs and weights.
"""

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from optformer.inference.compiled import cache_compilations
from optformer.model.checkpoint import CheckpointError, save_checkpoint
from optformer.model.config import DType
from optformer.model.precision import single_precision
from optformer.progress_bar import progress_bar
from optformer.serialization.batch import StudyBatch
from optformer.serialization.vocabulary import Vocabulary
from optformer.train import processes
from optformer.train import workdir as directory
from optformer.train.checkpoints import Checkpoints
from optformer.train.config import TrainConfig
from optformer.train.corpus_route import CorpusParts, corpus_batch, fitting, open_corpus, read_ahead, remarks
from optformer.train.decline import Decline
from optformer.train.initial import gains, initial_model, with_initial_model
from optformer.train.mesh import check_batch_size, make_mesh
from optformer.train.metrics import Clock, MetricsLog, Window, describe
from optformer.train.processes import Verdict, Votes
from optformer.train.step import TRAINING, Metrics, Params, Steps, TrainState, join, make_steps
from optformer.train.stop import Stop
from optformer.train.validation import selection_loss, validate
from optformer.train.workdir import NonFiniteLossError as NonFiniteLossError

_Tree = TypeVar("_Tree")


class TrainResult(NamedTuple):
    """How a call of `train` ended.

    Attributes:
      step: steps done so far, by all calls.
      ended_by: `finished`, `max_minutes` or the name of a signal.
      validation: latest validation: `validation_prior/function_loss` and so on.
      export: folder with the averaged weights.
    """

    step: int
    ended_by: str
    validation: dict[str, float]
    export: Path


@single_precision
def train(config: TrainConfig, workdir: str | Path, name: str = "custom") -> TrainResult:
    """Trains until `config.steps`, `config.max_minutes` or SIGINT / SIGTERM; each ends at a checkpoint.

    Args:
      config: what to train.
      workdir: created if missing; an existing run is resumed.  Processes on several hosts share it.
      name: name of the config, for the card of the exported weights.

    Raises:
      ConfigError: the fields of the config are inconsistent, or differ from the run in `workdir`.
      CheckpointError: `workdir` has checkpoints, none of which can be read.
      NonFiniteLossError: the loss is not finite; the message names the step, and earlier checkpoints are kept.
      OSError: a file cannot be written, for example because the disk is full; earlier checkpoints are kept.
      OtherProcessError: another process of the run raised one of these.
    """
    started = time.monotonic()
    cache_compilations()
    workdir = Path(workdir)
    config = directory.with_recorded_products(with_initial_model(config), workdir)
    config.check_runnable()
    mesh = make_mesh(config.mesh)
    check_batch_size(mesh, config.batch_size, config.accumulate)
    # The first process builds the cache of a corpus, which the others then open.
    corpus = processes.first_then_others(lambda: open_corpus(config))
    processes.check_same(directory.config_digest(config, corpus), "config or corpus")
    with contextlib.ExitStack() as stack:
        stack.enter_context(directory.explained_if_full(workdir))
        processes.first_only(lambda: stack.enter_context(directory.only_run_in(workdir)))
        processes.first_only(lambda: directory.record_config(config, corpus, workdir))
        run = _Run(config, corpus, mesh, workdir, started, stack)
        run.begin()
        ended_by = run.advance()
        return run.end(name, ended_by)


ON_THE_BAR = ("function_loss", "policy_loss", "tokens_per_second")
"""Figures shown in the progress bar, as many as fit in 80 columns."""


SKIPPED_IN_A_ROW = 5
"""A run fails after this many consecutive steps without a finite gradient; fewer are skipped."""


FEWEST = 50
"""A fine-tuning run with fewer steps prints a warning."""


class _Due(NamedTuple):
    """What is due after a step.

    Attributes:
      line: whether to write a line of the log.
      validation: whether to validate.
      checkpoint: whether to write a checkpoint.
      end: why the call ends, as in `TrainResult.ended_by`; None if it continues.
    """

    line: bool
    validation: bool
    checkpoint: bool
    end: str | None


class _Run:
    """State of one call of `train`, and its stages: `begin`, `advance`, `end`.

    Attributes:
      done: steps done so far, by all calls.
      state: state of the model and the optimizer after these steps.
      unread: the latest step and its metrics, which are still on the device.
      skipped: number of consecutive steps that were just skipped.
      progress: the content of the latest checkpoint besides the state.
      compiling: seconds until this call's first step was compiled; None before.
    """

    def __init__(
        self,
        config: TrainConfig,
        corpus: CorpusParts | None,
        mesh: Mesh,
        workdir: Path,
        started: float,
        stack: contextlib.ExitStack,
    ):
        """Restores the latest checkpoint, or makes initial weights.  `stack` closes what is opened here."""
        self.config, self.corpus, self.mesh, self.workdir, self.started = config, corpus, mesh, workdir, started
        self.steps = make_steps(config, mesh)
        self.checkpoints = Checkpoints(workdir / "checkpoints", config.keep)
        stack.callback(self.checkpoints.close)
        restored = self.checkpoints.restore_latest(self.steps.abstract_state)
        self.restored_step = restored.step if restored else None
        self.done = restored.step if restored else 0
        self.state: TrainState = restored.state if restored else self.steps.init(initial_model(config))
        self.unread: tuple[int, Metrics] | None = None
        self.skipped = 0

        self.progress: dict[str, Any] = restored.progress if restored else {}
        self.window = Window(self.progress.get("window"))
        self.validation: dict[str, float] = self.progress.get("validation", {})
        self.before: dict[str, float] = self.progress.get("before", {})
        self.decline = Decline(**self.progress.get("decline", {}))
        self.seconds_before: float = self.progress.get("seconds", 0.0)

        self.log = processes.first_only(lambda: MetricsLog(workdir, self.done))
        if self.log is not None:
            stack.callback(self.log.close)
        self.stop = stack.enter_context(Stop.on_signals())
        terminal = None if processes.is_first() else stack.enter_context(open(os.devnull, "w"))  # noqa: SIM115
        self.bar = stack.enter_context(progress_bar("steps", figures="compiling", stream=terminal))
        self.figures = self.note = ""
        self.clock, self.votes = Clock(), Votes(mesh)
        self.compiling: float | None = None

    # Begin.

    def begin(self) -> None:
        """Prints what is trained, and validates the initial weights of a fine-tuning run."""
        self.bar.say(self._what_starts())
        if self.corpus is not None:
            for remark in remarks(self.corpus, self.config, self.mesh):
                self.bar.say(remark)
        if self.log is not None and self.log.tensorboard_missing and self.restored_step is None:
            self.bar.say("tensorboardX is not installed: metrics go to metrics.jsonl only")
        if self.config.init is not None and self.done == 0:
            self.before = validate(self.config, self.mesh, self.steps, self.state, self.corpus)
            self._write_validation(self.before)

    def _what_starts(self) -> str:
        config, corpus, mesh = self.config, self.corpus, self.mesh
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.steps.abstract_state.params))
        sources = [f"{config.prior_studies} studies of the prior"] if config.prior_studies else []
        if corpus is not None:
            sources.append(f"{config.corpus_studies} of the corpus ({fitting(corpus.training, config)} studies)")
        device = mesh.devices.flat[0]
        hosts = f" of {jax.process_count()} processes" if mesh.is_multi_process else ""
        return (
            f"{'resuming from step ' + str(self.done) if self.done else 'training'} in {self.workdir}: "
            f"{parameters:,} parameters, {config.steps} steps of {' and '.join(sources)}, "
            f"on {mesh.devices.size} {device.device_kind}{hosts}"
        )

    # Advance.

    def advance(self) -> str:
        """Trains until the run or this call ends; returns the reason, as in `TrainResult.ended_by`."""
        self.saved_at = time.monotonic()
        with contextlib.closing(read_ahead(self._corpus_part, range(self.done, self.config.steps))) as parts:
            for part in parts:
                self._step(part)
                due = self._due()
                if due.line or due.validation or due.checkpoint:
                    self._read()
                self._show(due.line)
                if due.validation:
                    self._validate()
                if due.checkpoint:
                    self._save(due.validation)
                if due.end is not None:
                    return due.end
        return "finished"

    def _corpus_part(self, step: int) -> StudyBatch | None:
        if self.corpus is None:
            return None
        return corpus_batch(self.corpus.training, self.config.seed, step, self.config, self.mesh)

    def _step(self, part: StudyBatch | None) -> None:
        self.state, metrics = self.steps.train(self.state, self.steps.draw_prior(TRAINING, self.done), part)
        if self.compiling is None:
            self.compiling = time.monotonic() - self.started
        self.done += 1
        # The metrics of a step are read while the next one runs.
        self._read()
        self.unread = (self.done, metrics)

    def _read(self) -> None:
        """Adds the unread metrics of the latest step to the sums.

        Raises:
          NonFiniteLossError: the loss is not finite, or too many gradients in a row were not.
        """
        if self.unread is None:
            return
        (step, metrics), self.unread = self.unread, None
        values = {metric: float(value) for metric, value in jax.device_get(metrics).items()}
        self.skipped = self.skipped + 1 if values["skipped_steps"] else 0
        if not np.isfinite(values["loss"]) or self.skipped > SKIPPED_IN_A_ROW:
            parts = (self.steps.draw_prior(TRAINING, step - 1), self._corpus_part(step - 1))
            batch = join(*(_on_host(part, self.steps) for part in parts))
            raise directory.non_finite(step, values, batch, self.workdir, processes.first_only)
        self.window.add(values)
        self.clock.add(values)

    def _due(self) -> _Due:
        """What is due now; all processes agree on the parts that depend on clocks and signals."""
        config, now = self.config, time.monotonic()
        out_of_minutes = config.max_minutes is not None and now - self.started >= 60 * config.max_minutes
        save = now - self.saved_at >= 60 * config.checkpoint_minutes
        verdict = self.votes.cast(Verdict(self.stop.signal, out_of_minutes, save))
        finished = self.done == config.steps
        end = None
        if verdict.signal:
            end = signal.Signals(verdict.signal).name
        elif finished:
            end = "finished"
        elif verdict.out_of_minutes:
            end = "max_minutes"
        return _Due(
            line=finished or self.done % config.log_every == 0,
            validation=finished
            or end == "max_minutes"
            or (config.eval_every > 0 and self.done % config.eval_every == 0),
            checkpoint=end is not None or verdict.save or self.done % config.checkpoint_every == 0,
            end=end,
        )

    def _show(self, line: bool) -> None:
        """Moves the bar; with `line`, writes the means since the last line."""
        if line:
            values = self.window.means() | self.clock.rates() | {"minutes": self._seconds() / 60}
            self.window = Window()
            self._write("train", values)
            first = {name: values.pop(name) for name in ON_THE_BAR if name in values}
            self.figures, self.note = describe(first), describe(values)
        self.bar(self.done, self.config.steps, figures=self.figures, note=self.note)

    def _validate(self) -> None:
        self.validation = validate(self.config, self.mesh, self.steps, self.state, self.corpus)
        self._write_validation(self.validation)
        loss = selection_loss(self.config, self.validation)
        if loss is not None and (warning := self.decline.observe(self.done, loss)):
            self.bar.say(warning)
        self.clock.restart()

    def _save(self, validated: bool) -> None:
        self.progress = {
            "step": self.done,
            "seed": self.config.seed,
            "seconds": self._seconds(),
            "window": self.window.sums,
            "validation": self.validation,
            "before": self.before,
            "decline": self.decline.to_json(),
        }
        loss = selection_loss(self.config, self.validation) if validated else None
        self.checkpoints.save(self.state, self.progress, loss)
        self.saved_at = time.monotonic()
        self.votes.forget()

    def _seconds(self) -> float:
        """Seconds spent by all calls so far."""
        return self.seconds_before + time.monotonic() - self.started

    def _write(self, kind: str, values: dict[str, float]) -> None:
        if self.log is not None:
            self.log.write(self.done, kind, values)

    def _write_validation(self, validation: dict[str, float]) -> None:
        for kind in ("validation_prior", "validation_corpus"):
            values = {k.split("/")[1]: v for k, v in validation.items() if k.startswith(kind + "/")}
            if values:
                self._write(kind, values)
                self.bar.say(f"step {self.done}  {kind.replace('_', ' on ')}: {describe(values)}")

    # End.

    def end(self, name: str, ended_by: str) -> TrainResult:
        """Exports the averaged weights, unless an earlier call has done so at this step."""
        self.checkpoints.wait()
        export = self.workdir / "export"
        outdated = self.restored_step is None or self.done > self.restored_step
        if outdated or not processes.first_then_others(export.exists):
            card = directory.card(name, self.config, self.corpus, self.done, self.progress)
            _export(export, self.steps, self.state.average, card, "float32")
        for line in gains(self.before, self.validation):
            self.bar.say(line)
        how = ended_by
        if ended_by == "max_minutes" and self.compiling is not None:
            how += f"; {self.compiling / 60:.1f} of them until the first step was compiled"
        if self.config.init is not None and self.done < FEWEST:
            self.bar.say(
                f"{self.done} steps of fine-tuning hardly change a model: train {FEWEST} or more "
                "(--max-minutes includes the time of compilation)"
            )
        self.bar.say(f"step {self.done} of {self.config.steps} ({how}); weights in {export}")
        return TrainResult(self.done, ended_by, self.validation, export)


@single_precision
def export_latest(config: TrainConfig, workdir: str | Path, target: str | Path, name: str = "custom") -> int:
    """Writes the averaged weights of the latest checkpoint to `target`, in bfloat16; trains nothing.

    The files are small enough for repositories and wheels.  May be called while a run is going on in `workdir`.
    Returns the step of the checkpoint.

    Raises:
      CheckpointError: there is no checkpoint, or none that can be read.
    """
    workdir, config = Path(workdir), with_initial_model(config)
    corpus = processes.first_then_others(lambda: open_corpus(config))
    processes.together(lambda: directory.compare_configs(config, corpus, workdir))
    steps = make_steps(config, make_mesh(config.mesh))
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(f"there is no checkpoint in {workdir}: train first, without --export")
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep, read_only=True)
    try:
        restored = checkpoints.restore_latest(steps.abstract_state)
    finally:
        checkpoints.close()
    if restored is None:
        raise CheckpointError(f"there is no finished checkpoint in {workdir} yet")
    # A model exported by `--export` is named after its folder.
    card = directory.card(name, config, corpus, restored.step, restored.progress) | {"name": Path(target).name}
    with directory.explained_if_full(Path(target)):
        _export(Path(target), steps, restored.state.average, card, "bfloat16")
    return restored.step


def _export(target: Path, steps: Steps, average: Params, card: Mapping[str, object], dtype: DType) -> None:
    weights = _on_host(average, steps)
    digest = Vocabulary.default().fingerprint
    processes.first_only(lambda: save_checkpoint(target, steps.merge(weights), card, digest, dtype=dtype))


def _on_host(tree: _Tree, steps: Steps) -> _Tree:
    """Converts to numpy arrays; arrays distributed over several processes are gathered first."""
    if not all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in jax.tree.leaves(tree)):
        tree = steps.gather(tree)
    return jax.tree.map(np.asarray, tree)
