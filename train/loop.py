"""The training loop: from a config and a working directory to exported weights.

A working directory holds `config.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/` and `export/`, the averaged
weights as `OptFormer.from_pretrained(workdir)` reads them.  The same call on the same directory goes on where the last
one ended, however that ended.
"""

import contextlib
import datetime
import functools
import itertools
import json
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from optformer.data.corpus import Corpus
from optformer.inference.compiled import cache_compilations
from optformer.model.checkpoint import CheckpointError, save_checkpoint
from optformer.model.precision import single_precision
from optformer.serialization.batch import StudyBatch
from optformer.train.checkpoints import Checkpoints
from optformer.train.config import MAY_CHANGE, ConfigError, TrainConfig, flatten, to_dict
from optformer.train.mesh import check_batch_size, make_mesh, part_sharding
from optformer.train.metrics import MetricsLog, Window, write_atomically
from optformer.train.progress import Progress, describe
from optformer.train.step import TRAINING, VALIDATION, Metrics, Steps, TrainState, join, make_steps


class CorpusParts(NamedTuple):
    """The corpus and its two parts; `validation` is None, and `training` all of it, where it cannot be parted."""

    whole: Corpus
    training: Corpus
    validation: Corpus | None


class NonFiniteLossError(FloatingPointError):
    """The loss or the gradient is NaN or infinite.  The message names the step and the file with its batch."""


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
      workdir: created if missing; a run found there is continued.
      name: of the config, for the card of the exported weights.

    Raises:
      ConfigError: parts of the config do not fit together, or differ from the run in `workdir`.
      CheckpointError: `workdir` has checkpoints, none of which can be read.
      NonFiniteLossError: at the step it names; the checkpoints before it are kept.
    """
    started = time.monotonic()
    cache_compilations()
    config.check_runnable()
    mesh = make_mesh(config.mesh)
    check_batch_size(mesh, config.batch_size)
    corpus = _open_corpus(config)
    workdir = Path(workdir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_run_in(workdir))
        _record_config(config, corpus, workdir)
        steps = make_steps(config, mesh)
        checkpoints = Checkpoints(workdir / "checkpoints", config.keep)
        stack.callback(checkpoints.close)
        restored = checkpoints.restore_latest(steps.abstract_state)
        done = restored.step if restored else 0
        state = restored.state if restored else steps.init()
        progress = restored.progress if restored else {}
        window = Window(progress.get("window"))
        validation: dict[str, float] = progress.get("validation", {})
        seconds_before: float = progress.get("seconds", 0.0)

        log = MetricsLog(workdir, done)
        stack.callback(log.close)
        stop = stack.enter_context(_Stop.on_signals())
        bar = stack.enter_context(Progress(config.steps, done))
        bar.say(_what_starts(config, corpus, mesh, steps, done, workdir))
        if corpus is not None:
            for remark in _corpus_remarks(corpus, config):
                bar.say(remark)
        if log.tensorboard_missing and not restored:
            bar.say("tensorboardX is not installed: metrics go to metrics.jsonl only")

        def corpus_part(step: int) -> StudyBatch | None:
            if corpus is None:
                return None
            part = corpus.training.batch(config.seed, step, config.corpus_studies, config.shape, config.augmentation)
            return jax.device_put(part, part_sharding(mesh, config.corpus_studies))

        def account(step: int, metrics: Metrics) -> None:
            values = {metric: float(value) for metric, value in jax.device_get(metrics).items()}
            if not (np.isfinite(values["loss"]) and np.isfinite(values["gradient_norm"])):
                batch = join(steps.draw_prior(TRAINING, step - 1), corpus_part(step - 1))
                raise _non_finite(step, values, batch, workdir)
            window.add(values)
            clock.add(values)

        clock = _Clock()
        saved_at, saved_step = time.monotonic(), done
        behind: tuple[int, Metrics] | None = None
        ended_by = "finished"
        parts = stack.enter_context(contextlib.closing(_read_ahead(corpus_part, range(done, config.steps))))
        for part in parts:
            state, metrics = steps.train(state, steps.draw_prior(TRAINING, done), part)
            done += 1
            # The numbers of a step are read while the next one runs.
            if behind is not None:
                account(*behind)
            behind = (done, metrics)

            now = time.monotonic()
            if stop.signal is not None:
                ended_by = stop.signal
            elif config.max_minutes is not None and now - started >= 60 * config.max_minutes and done < config.steps:
                ended_by = "max_minutes"
            last = done == config.steps or ended_by != "finished"
            line_due = done % config.log_every == 0 or done == config.steps
            validation_due = (config.eval_every > 0 and done % config.eval_every == 0) or done == config.steps
            validation_due |= ended_by == "max_minutes"
            checkpoint_due = done % config.checkpoint_every == 0 or last
            checkpoint_due |= now - saved_at >= 60 * config.checkpoint_minutes
            if line_due or validation_due or checkpoint_due:
                account(*behind)
                behind = None
            if line_due:
                values = window.means() | clock.rates() | {"minutes": (seconds_before + now - started) / 60}
                window = Window()
                log.write(done, "train", values)
                bar.update(done, values)
            else:
                bar.update(done)
            if validation_due:
                validation = validate(config, mesh, steps, state, corpus)
                for kind in ("validation_prior", "validation_corpus"):
                    values = {k.split("/")[1]: v for k, v in validation.items() if k.startswith(kind + "/")}
                    if values:
                        log.write(done, kind, values)
                        bar.say(f"step {done}  {kind.replace('_', ' on ')}: {describe(values)}")
                clock.restart()
            if checkpoint_due:
                seconds = seconds_before + time.monotonic() - started
                progress = {
                    "step": done,
                    "seed": config.seed,
                    "seconds": seconds,
                    "window": window.sums,
                    "validation": validation,
                }
                checkpoints.save(state, progress, _selection_loss(config, validation) if validation_due else None)
                saved_at, saved_step = time.monotonic(), done
            if last:
                break

        export = workdir / "export"
        if done > saved_step or restored is None or saved_step > restored.step or not export.exists():
            card = _card(name, config, corpus, done, progress)
            save_checkpoint(export, steps.merge(_on_host(state.average)), card)
        bar.say(f"step {done} of {config.steps} ({ended_by}); weights in {export}")
        return TrainResult(done, ended_by, validation, export)


@single_precision
def export_latest(config: TrainConfig, workdir: str | Path, directory: str | Path, name: str = "custom") -> int:
    """Writes the averaged weights of the latest checkpoint to `directory`; trains nothing.

    May be called while a run is going on in `workdir`.  Returns the step of the checkpoint.

    Raises:
      CheckpointError: there is no checkpoint, or none that can be read.
    """
    workdir = Path(workdir)
    corpus = _open_corpus(config)
    _compare_configs(config, corpus, workdir)
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
    card = _card(name, config, corpus, restored.step, restored.progress)
    save_checkpoint(Path(directory), steps.merge(_on_host(restored.state.average)), card)
    return restored.step


def _open_corpus(config: TrainConfig) -> CorpusParts | None:
    if config.corpus is None:
        return None
    whole = Corpus.open(config.corpus)
    training, validation = whole.split("train"), whole.split("validation")
    if not 0 < _fitting(validation, config) < _fitting(training, config):
        # Few groups of related studies: none is held out by chance, or most of the corpus is.
        return CorpusParts(whole, whole, None)
    return CorpusParts(whole, training, validation)


def _fitting(corpus: Corpus, config: TrainConfig) -> int:
    coverage = corpus.coverage(config.shape)
    return coverage.records - coverage.too_many_slots


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
        place = part_sharding(mesh, config.corpus_studies)
        sources["validation_corpus"] = lambda index: jax.device_put(
            held_out.batch(0, index, config.corpus_studies, config.shape, config.augmentation), place
        )
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


def _read_ahead(read: Callable[[int], StudyBatch | None], steps: range, depth: int = 2) -> Generator[StudyBatch | None]:
    """`read(step)` for each step in order, by a thread that stays up to `depth` steps ahead."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="corpus") as pool:
        todo = iter(steps)
        waiting: deque[Future[StudyBatch | None]] = deque(pool.submit(read, s) for s in itertools.islice(todo, depth))
        while waiting:
            part = waiting.popleft().result()
            waiting.extend(pool.submit(read, s) for s in itertools.islice(todo, 1))
            yield part


def _record_config(config: TrainConfig, corpus: CorpusParts | None, workdir: Path) -> None:
    """Compares with the run in `workdir`, then writes `config.json` anew: what may change may have."""
    recorded = _compare_configs(config, corpus, workdir)
    write_atomically(workdir / "config.json", json.dumps(recorded, indent=2) + "\n")


def _compare_configs(config: TrainConfig, corpus: CorpusParts | None, workdir: Path) -> dict[str, Any]:
    current = to_dict(config) | {"corpus_fingerprint": None if corpus is None else corpus.whole.fingerprint}
    path = workdir / "config.json"
    if not path.exists():
        return current
    try:
        recorded = flatten(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}): restore it, or take a new working directory") from error
    now = flatten(current)
    changed = [key for key in {**recorded, **now} if key not in MAY_CHANGE and recorded.get(key) != now.get(key)]
    if changed:
        listed = ", ".join(f"{key} ({recorded.get(key)} there, {now.get(key)} now)" for key in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ConfigError(
            f"the run in {workdir} has another config: {listed}{more}; take a new --workdir, or the old values"
        )
    return current


@contextlib.contextmanager
def _only_run_in(workdir: Path) -> Iterator[None]:
    """Two runs in one directory would overwrite each other.  The lock goes with the process, also on kill -9."""
    import fcntl

    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"the working directory {workdir} is a file")
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"another process is training in {workdir}") from None
        yield


class _Stop:
    """Turns SIGINT and SIGTERM into a note for the loop; a second one interrupts at once."""

    def __init__(self) -> None:
        self.signal: str | None = None

    @classmethod
    @contextlib.contextmanager
    def on_signals(cls) -> Iterator["_Stop"]:
        stop = cls()
        if threading.current_thread() is not threading.main_thread():
            yield stop
            return

        def note(number: int, frame: object) -> None:
            if stop.signal is not None:
                raise KeyboardInterrupt
            stop.signal = signal.Signals(number).name
            print(f"{stop.signal}: ending at a checkpoint ...", file=sys.stderr)

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


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


def _non_finite(step: int, values: dict[str, float], batch: StudyBatch, workdir: Path) -> NonFiniteLossError:
    path = workdir / f"non_finite_step_{step}.npz"
    arrays: dict[str, Any] = {field: np.asarray(value) for field, value in batch._asdict().items()}
    np.savez(path, **arrays)
    shown = {name: values[name] for name in ("loss", "policy_loss", "function_loss", "gradient_norm")}
    numbers = ", ".join(f"{name} {value:g}" for name, value in shown.items())
    return NonFiniteLossError(
        f"loss is not finite at step {step} ({numbers}): its batch is in {path}; "
        "a lower optimizer.learning_rate or clip_norm in a new working directory may help"
    )


def _what_starts(
    config: TrainConfig, corpus: CorpusParts | None, mesh: Mesh, steps: Steps, done: int, workdir: Path
) -> str:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(steps.abstract_state.params))
    sources = [f"{config.prior_studies} studies of the prior"] if config.prior_studies else []
    if corpus is not None:
        sources.append(f"{config.corpus_studies} of the corpus ({_fitting(corpus.training, config)} studies)")
    device = mesh.devices.flat[0]
    return (
        f"{'going on from step ' + str(done) if done else 'training'} in {workdir}: {parameters:,} parameters, "
        f"{config.steps} steps of {' and '.join(sources)}, on {mesh.devices.size} {device.device_kind}"
    )


def _corpus_remarks(corpus: CorpusParts, config: TrainConfig) -> Iterator[str]:
    """What of the corpus is not used, and why."""
    coverage = corpus.whole.coverage(config.shape)
    if coverage.too_many_slots:
        yield (
            f"{coverage.too_many_slots} of the corpus' {coverage.records} studies have more than {config.shape.slots} "
            "parameters and are left out: raise shape.slots to train on them"
        )
    if corpus.validation is None:
        yield "the corpus has too few groups of studies to hold some out for validation: all of them are trained on"


def _card(
    name: str, config: TrainConfig, corpus: CorpusParts | None, step: int, progress: dict[str, Any]
) -> dict[str, Any]:
    """What the exported weights say about themselves."""
    data = f"synthetic prior ({1 - config.corpus_fraction:.0%} of studies)"
    if corpus is not None:
        data += (
            f", corpus {Path(str(config.corpus)).name} of {len(corpus.whole)} studies ({config.corpus_fraction:.0%})"
        )
    return {
        "name": name,
        "steps": step,
        "studies": step * config.batch_size,
        "minutes": round(progress.get("seconds", 0.0) / 60, 1),
        "data": data,
        "metrics": progress.get("validation", {}),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "train_config": to_dict(config),
    }


def _on_host(params: Any) -> Any:
    return jax.tree.map(np.asarray, params)
