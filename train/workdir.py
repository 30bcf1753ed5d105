"""The working directory of a run: its lock, the recorded config, the card, and errors of a full disk."""

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from optformer.files import only_process, write_atomically
from optformer.model.config import without_removed
from optformer.serialization.batch import StudyBatch
from optformer.train.config import ConfigError, TrainConfig, flatten, may_change, to_dict
from optformer.train.corpus_route import CorpusParts


class NonFiniteLossError(FloatingPointError):
    """The loss or the gradient is NaN or infinite.  The message names the step and the file with its batch."""


def only_run_in(workdir: Path) -> contextlib.AbstractContextManager[object]:
    """Locks the working directory for this process, since two runs would overwrite each other; its end unlocks it."""
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"the working directory {workdir} is a file")
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        return only_process(workdir / ".lock", f"another process is training in {workdir}")
    except BlockingIOError as error:
        raise ConfigError(str(error)) from None


def with_recorded_products(config: TrainConfig, workdir: Path) -> TrainConfig:
    """The config with the products of the run in `workdir` in place of `auto`; with this machine's for a new run."""
    path = workdir / "config.json"
    if config.products != "auto" or not path.exists():
        return config.decided()
    # Runs of earlier releases, which do not record it, used float32.
    return dataclasses.replace(config, products=_recorded(path).get("products", "float32"))


def record_config(config: TrainConfig, corpus: CorpusParts | None, workdir: Path) -> None:
    """Compares the config with that of the run in `workdir`, then writes `config.json` with the changed fields."""
    recorded = compare_configs(config, corpus, workdir)
    write_atomically(workdir / "config.json", json.dumps(recorded, indent=2) + "\n")


def compare_configs(config: TrainConfig, corpus: CorpusParts | None, workdir: Path) -> dict[str, Any]:
    """The new content of `config.json`.

    Raises:
      ConfigError: the run in `workdir` was started with another config, in a field that may not change.
    """
    current = _facts(config, corpus)
    path = workdir / "config.json"
    if not path.exists():
        return current
    now = flatten(current)
    # A field that is missing was added by a later release, with a default that changes nothing.
    recorded = flatten(to_dict(TrainConfig())) | flatten(_recorded(path))
    changed = [key for key in {**recorded, **now} if not may_change(key) and recorded.get(key) != now.get(key)]
    if changed:
        gone = "no such field"
        listed = ", ".join(f"{key} ({recorded.get(key)} there, {now.get(key, gone)} now)" for key in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ConfigError(
            f"the run in {workdir} has another config: {listed}{more}; use a new --workdir, or the old values"
        )
    return current


def _recorded(path: Path) -> dict[str, Any]:
    """The config of the last call of the run."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content.get("train_only"), str):  # earlier releases trained one part at most
            content["train_only"] = [content["train_only"]]
        return content | {"model": without_removed(content["model"])}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): restore it, or use a new working directory") from error


def config_digest(config: TrainConfig, corpus: CorpusParts | None) -> bytes:
    """A digest that is equal for processes with the same config and the same content of the corpus."""
    facts = _facts(config, corpus) | {"corpus": None}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


def _facts(config: TrainConfig, corpus: CorpusParts | None) -> dict[str, Any]:
    return to_dict(config) | {"corpus_fingerprint": None if corpus is None else corpus.whole.fingerprint}


def card(
    name: str, config: TrainConfig, corpus: CorpusParts | None, step: int, progress: dict[str, Any]
) -> dict[str, Any]:
    """The card of the exported weights; names files without their folders, which only exist on this machine."""
    data = f"synthetic prior ({1 - config.corpus_fraction:.0%} of studies)"
    if corpus is not None:
        data += (
            f", corpus {Path(str(config.corpus)).name} of {len(corpus.whole)} studies ({config.corpus_fraction:.0%})"
        )
    return {
        "name": name,
        "recipe": name,
        "steps": step,
        "studies": step * config.batch_size,
        "minutes": round(progress.get("seconds", 0.0) / 60, 1),
        "data": data,
        "metrics": progress.get("validation", {}),
        **({"init": _base(config.init), "metrics_before": progress.get("before", {})} if config.init else {}),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "train_config": to_dict(config) | {"corpus": _base(config.corpus), "init": _base(config.init)},
    }


def _base(path: str | None) -> str | None:
    return None if path is None else Path(path).name


def non_finite(
    step: int, values: dict[str, float], batch: StudyBatch, workdir: Path, write: Callable[[Callable[[], None]], None]
) -> NonFiniteLossError:
    """Saves the batch of a step with a loss that is not finite; `write` calls a function in the first process only."""
    path = workdir / f"non_finite_step_{step}.npz"
    arrays: dict[str, Any] = {field: np.asarray(value) for field, value in batch._asdict().items()}
    write(lambda: np.savez(path, **arrays))
    numbers = ", ".join(f"{name} {values[name]:g}" for name in ("loss", "policy_loss", "function_loss"))
    what = "the gradient" if np.isfinite(values["loss"]) else "loss"
    return NonFiniteLossError(
        f"{what} is not finite at step {step} ({numbers}): its batch is in {path}; "
        "a lower optimizer.learning_rate or clip_norm in a new working directory may help"
    )


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers: no space on the disk, quota exceeded, file too large."""


@contextlib.contextmanager
def explained_if_full(workdir: Path) -> Iterator[None]:
    """Context manager that replaces the error of a full disk with one line that says what to do.

    Raises:
      OSError: with the same number, for an `OSError` of a full disk; other errors propagate unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(error.errno, f"no space left for {workdir}: {what_to_do_if_full()}") from error


def what_to_do_if_full() -> str:
    return "free some space and run the same command again: it resumes from the last complete checkpoint"
