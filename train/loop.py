"""The training loop: from a config and a working directory to exported weights.

A working directory holds `config.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/` and `export/`, the averaged
weights as `OptFormer.from_pretrained(workdir)` reads them.  The same call on the same directory goes on where the last
one ended, however that ended.

Every process of a run goes through this file in step with the others; the first one alone writes logs and weights.
"""

import contextlib
import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from optformer.inference.compiled import cache_compilations
from optformer.model.checkpoint import CheckpointError, save_checkpoint
from optformer.model.config import DType
from optformer.model.precision import single_precision
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
from optformer.train.metrics import MetricsLog, Window
from optformer.train.processes import Verdict, Votes
from optformer.train.progress import Progress, describe
from optformer.train.step import TRAINING, VALIDATION, Metrics, Steps, TrainState, join, make_steps
from optformer.train.stop import Stop
from optformer.train.workdir import NonFiniteLossError as NonFiniteLossError


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
      workdir: created if missing; a run found there is continued.  Processes on several hosts share it.
      name: of the config, for the card of the exported weights.

    Raises:
      ConfigError: parts of the config do not fit together, or differ from the run in `workdir`.
      CheckpointError: `workdir` has checkpoints, none of which can be read.
      NonFiniteLossError: at the step it names; the checkpoints before it are kept.
      OSError: something cannot be written, for want of space say; the checkpoints before it are kept.
      OtherProcessError: another process of the run raised one of these.
    """
    started = time.monotonic()
    cache_compilations()
    config = with_initial_model(config)
    config.check_runnable()
    mesh = make_mesh(config.mesh)
    check_batch_size(mesh, config.batch_size, config.accumulate)
    # The first process builds the cache of a corpus, which the others then find.
    corpus = processes.first_then_others(lambda: open_corpus(config))
    processes.check_same(directory.config_digest(config, corpus), "config or corpus")
    workdir = Path(workdir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(directory.explained_if_full(workdir))
        processes.first_only(lambda: stack.enter_context(directory.only_run_in(workdir)))
        processes.first_only(lambda: directory.record_config(config, corpus, workdir))
        steps = make_steps(config, mesh)
        checkpoints = Checkpoints(workdir / "checkpoints", config.keep)
        stack.callback(checkpoints.close)
        restored = checkpoints.restore_latest(steps.abstract_state)
        done = restored.step if restored else 0
        state = restored.state if restored else steps.init(initial_model(config))
        progress = restored.progress if restored else {}
        window = Window(progress.get("window"))
        validation: dict[str, float] = progress.get("validation", {})
        seconds_before: float = progress.get("seconds", 0.0)
        before: dict[str, float] = progress.get("before", {})
        decline = Decline(**progress.get("decline", {}))

        log = processes.first_only(lambda: MetricsLog(workdir, done))
        if log is not None:
            stack.callback(log.close)
        stop = stack.enter_context(Stop.on_signals())
        terminal = None if processes.is_first() else stack.enter_context(open(os.devnull, "w"))
        bar = stack.enter_context(Progress(config.steps, done, terminal))
        bar.say(_what_starts(config, corpus, mesh, steps, done, workdir))
        if corpus is not None:
            for remark in remarks(corpus, config, mesh):
                bar.say(remark)
        if log is not None and log.tensorboard_missing and not restored:
            bar.say("tensorboardX is not installed: metrics go to metrics.jsonl only")

        def corpus_part(step: int) -> StudyBatch | None:
            return None if corpus is None else corpus_batch(corpus.training, config.seed, step, config, mesh)

        def account(step: int, metrics: Metrics) -> None:
            values = {metric: float(value) for metric, value in jax.device_get(metrics).items()}
            if not (np.isfinite(values["loss"]) and np.isfinite(values["gradient_norm"])):
                parts = (steps.draw_prior(TRAINING, step - 1), corpus_part(step - 1))
                batch = join(*(_on_host(part, steps) for part in parts))
                raise directory.non_finite(step, values, batch, workdir, processes.first_only)
            window.add(values)
            clock.add(values)

        def write(kind: str, values: dict[str, float]) -> None:
            if log is not None:
                log.write(done, kind, values)

        def write_validation(validation: dict[str, float]) -> None:
            for kind in ("validation_prior", "validation_corpus"):
                values = {k.split("/")[1]: v for k, v in validation.items() if k.startswith(kind + "/")}
                if values:
                    write(kind, values)
                    bar.say(f"step {done}  {kind.replace('_', ' on ')}: {describe(values)}")

        if config.init is not None and done == 0:
            before = validate(config, mesh, steps, state, corpus)
            write_validation(before)

        clock, votes = _Clock(), Votes(mesh)
        saved_at, saved_step = time.monotonic(), done
        behind: tuple[int, Metrics] | None = None
        ended_by = "finished"
        parts = stack.enter_context(contextlib.closing(read_ahead(corpus_part, range(done, config.steps))))
        for part in parts:
            state, metrics = steps.train(state, steps.draw_prior(TRAINING, done), part)
            done += 1
            # The numbers of a step are read while the next one runs.
            if behind is not None:
                account(*behind)
            behind = (done, metrics)

            now = time.monotonic()
            out_of_minutes = config.max_minutes is not None and now - started >= 60 * config.max_minutes
            save = now - saved_at >= 60 * config.checkpoint_minutes
            verdict = votes.cast(Verdict(stop.signal, out_of_minutes, save))
            if verdict.signal:
                ended_by = signal.Signals(verdict.signal).name
            elif verdict.out_of_minutes and done < config.steps:
                ended_by = "max_minutes"
            last = done == config.steps or ended_by != "finished"
            line_due = done % config.log_every == 0 or done == config.steps
            validation_due = (config.eval_every > 0 and done % config.eval_every == 0) or done == config.steps
            validation_due |= ended_by == "max_minutes"
            checkpoint_due = done % config.checkpoint_every == 0 or verdict.save or last
            if line_due or validation_due or checkpoint_due:
                account(*behind)
                behind = None
            if line_due:
                values = window.means() | clock.rates() | {"minutes": (seconds_before + now - started) / 60}
                window = Window()
                write("train", values)
                bar.update(done, values)
            else:
                bar.update(done)
            if validation_due:
                validation = validate(config, mesh, steps, state, corpus)
                write_validation(validation)
                loss = _selection_loss(config, validation)
                if loss is not None and (warning := decline.observe(done, loss)):
                    bar.say(warning)
                clock.restart()
            if checkpoint_due:
                seconds = seconds_before + time.monotonic() - started
                progress = {
                    "step": done,
                    "seed": config.seed,
                    "seconds": seconds,
                    "window": window.sums,
                    "validation": validation,
                    "before": before,
                    "decline": decline.to_json(),
                }
                checkpoints.save(state, progress, _selection_loss(config, validation) if validation_due else None)
                saved_at, saved_step = time.monotonic(), done
                votes.forget()
            if last:
                break

        checkpoints.wait()
        export = workdir / "export"
        outdated = done > saved_step or restored is None or saved_step > restored.step
        if outdated or not processes.first_then_others(export.exists):
            card = directory.card(name, config, corpus, done, progress)
            _export(export, steps, state.average, card, "float32")
        for line in gains(before, validation):
            bar.say(line)
        bar.say(f"step {done} of {config.steps} ({ended_by}); weights in {export}")
        return TrainResult(done, ended_by, validation, export)


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
    # Exported on purpose, the model has a name of its own: that of its folder.
    card = directory.card(name, config, corpus, restored.step, restored.progress) | {"name": Path(target).name}
    with directory.explained_if_full(Path(target)):
        _export(Path(target), steps, restored.state.average, card, "bfloat16")
    return restored.step


def _export(target: Path, steps: Steps, average: Any, card: dict[str, Any], dtype: DType) -> None:
    weights = _on_host(average, steps)
    digest = Vocabulary.default().fingerprint
    processes.first_only(lambda: save_checkpoint(target, steps.merge(weights), card, digest, dtype=dtype))


def _on_host(tree: Any, steps: Steps) -> Any:
    """As numpy arrays.  What lies on devices of several processes is put together on all of them first."""
    if not all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in jax.tree.leaves(tree)):
        tree = steps.gather(tree)
    return jax.tree.map(np.asarray, tree)


def validate(
    config: TrainConfig, mesh: Mesh, steps: Steps, state: TrainState, corpus: CorpusParts | None
) -> dict[str, float]:
    """Losses of the averaged weights on fixed studies: `validation_prior/function_loss` and so on.

    The prior's come from a key of their own, the corpus' from its held-out studies.  A source without studies for it
    is left out.  Batches are as large as the source's part of a training batch.
    """
    held_out = None if corpus is None else corpus.validation
    sources: dict[str, Callable[[int], StudyBatch]] = {}
    if config.prior_studies:
        sources["validation_prior"] = functools.partial(_validation_prior, steps)
    if held_out is not None:
        sources["validation_corpus"] = lambda index: corpus_batch(held_out, 0, index, config, mesh)
    results: dict[str, float] = {}
    for kind, draw in sources.items():
        window = Window()
        for index in range(config.eval_batches):
            metrics = jax.device_get(steps.validate(state.average, draw(index)))
            window.add({name: float(value) for name, value in metrics.items()})
        results |= {f"{kind}/{name}": value for name, value in window.means().items()}
    return results


def _validation_prior(steps: Steps, index: int) -> StudyBatch:
    batch = steps.draw_prior(VALIDATION, index)
    assert batch is not None, "only asked of a config with prior studies"
    return batch


def _selection_loss(config: TrainConfig, validation: dict[str, float]) -> float | None:
    """Function loss on validation, the sources weighted as in training; what the best checkpoint is chosen by."""
    weights = {"validation_prior": 1 - config.corpus_fraction, "validation_corpus": config.corpus_fraction}
    known = {kind: validation.get(f"{kind}/function_loss") for kind in weights}
    total = sum(weights[kind] for kind, value in known.items() if value is not None)
    if total == 0:
        return None
    return sum(weights[kind] * value for kind, value in known.items() if value is not None) / total


class _Clock:
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


def _what_starts(
    config: TrainConfig, corpus: CorpusParts | None, mesh: Mesh, steps: Steps, done: int, workdir: Path
) -> str:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(steps.abstract_state.params))
    sources = [f"{config.prior_studies} studies of the prior"] if config.prior_studies else []
    if corpus is not None:
        sources.append(f"{config.corpus_studies} of the corpus ({fitting(corpus.training, config)} studies)")
    device = mesh.devices.flat[0]
    hosts = f" of {jax.process_count()} processes" if mesh.is_multi_process else ""
    return (
        f"{'going on from step ' + str(done) if done else 'training'} in {workdir}: {parameters:,} parameters, "
        f"{config.steps} steps of {' and '.join(sources)}, on {mesh.devices.size} {device.device_kind}{hosts}"
    )
