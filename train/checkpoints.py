"""Checkpoints of a run: atomic and written asynchronously; the latest ones and the best one are kept.

A checkpoint has the complete `TrainState` by name of leaf, and `progress`: plain numbers of the host (step, seed,
unfinished line of the log).  Data position and randomness are functions of seed and step, so they need not be stored.
"""

import contextlib
import functools
import hashlib
import json
import logging
import math
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from optformer.extras import from_extra
from optformer.files import sync_tree, write_atomically
from optformer.model.checkpoint import CheckpointError
from optformer.train import processes
from optformer.train.step import TrainState
from optformer.train.workdir import what_to_do_if_full

with from_extra("train", user="training"):
    import orbax.checkpoint as ocp
    from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

_METRIC = "validation_function_loss"
_NOTED = "file_sizes.json"
"""File with the size and SHA-256 of each file of a checkpoint; an earlier release recorded only sizes."""
_NEVER_BEGUN = re.compile(r"coroutine 'async_serialize\S*' was never awaited")


class CheckpointWriteError(OSError):
    """A checkpoint cannot be written.  The message names the last complete one, which is kept, and says what to do."""


class Restored(NamedTuple):
    """A checkpoint that was read."""

    step: int
    state: TrainState
    progress: dict[str, Any]


class Checkpoints:
    """The folder `checkpoints/` of a working directory.

    Args:
      directory: created unless `read_only`.
      keep: number of latest checkpoints to keep, in addition to the best one.
      read_only: opens the checkpoints of a run that may still be in progress.

    Raises:
      CheckpointError: there are checkpoints, and all of them are damaged.
    """

    def __init__(self, directory: Path, keep: int = 2, read_only: bool = False):
        self._directory = directory.absolute()
        self._read_only = read_only
        logging.getLogger("absl").addFilter(_not_orbax)
        _drop_late_complaints()
        processes.first_only(self._set_aside_damaged)
        # Written and read by name, so that the files do not depend on the classes of the state.
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_names=("state", "progress"),
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                # Deletes incomplete files of a save that was killed.
                cleanup_tmp_directories=not read_only,
                # Without it, Orbax writes no metrics; it does not decide which checkpoints are kept.
                best_fn=_validation_loss,
                preservation_policy=AnyPreservationPolicy(
                    [
                        LatestN(keep),
                        BestN(get_metric_fn=_validation_loss, reverse=True, n=1),
                    ]
                ),
            ),
        )

    def save(self, state: TrainState, progress: Mapping[str, Any], validation_loss: float | None) -> None:
        """Saves in the background: returns when the state has been copied; later saves, `wait` and `close` wait for it.

        Raises:
          CheckpointWriteError: this checkpoint or the one before it cannot be written.
        """
        self.wait()
        with self._explained():
            self._manager.save(
                int(progress["step"]),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_by_name(state)),
                    progress=ocp.args.JsonSave(progress),
                ),
                # Infinite for a checkpoint between validations, which is then never the best.
                metrics={_METRIC: math.inf if validation_loss is None else validation_loss},
                force=True,
            )

    def wait(self) -> None:
        """Waits until the last checkpoint is complete.

        Raises:
          CheckpointWriteError: the checkpoint cannot be written.
        """
        with self._explained():
            self._manager.wait_until_finished()
            self._note_files()

    def restore_latest(self, abstract_state: TrainState) -> Restored | None:
        """Reads the latest readable checkpoint; None if there are no checkpoints.

        Unreadable ones are skipped, and moved to the folder `unreadable/` once an older one has been read.

        Raises:
          CheckpointError: there are checkpoints, and none can be read.
        """
        failures: list[tuple[int, str]] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = processes.together(functools.partial(self.restore, step, abstract_state))
            except Exception as error:  # Other damage raises many types.
                failures.append((step, _first_line(error)))
                continue
            if failures and not self._read_only:
                processes.first_only(functools.partial(self._set_aside_all, failures))
                self._manager.reload()
            return restored
        if failures:
            raise self._none_readable(failures)
        return None

    def restore(self, step: int, abstract_state: TrainState) -> Restored:
        """Reads the checkpoint of this step; exceptions of Orbax propagate if it cannot be read."""
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_by_name(abstract_state)),
                progress=ocp.args.JsonRestore(),
            ),
        )
        treedef = jax.tree.structure(abstract_state)
        state = jax.tree.unflatten(treedef, [items["state"][name] for name in _by_name(abstract_state)])
        return Restored(step, state, dict(items["progress"]))

    def best_step(self) -> int | None:
        """The step of the kept checkpoint with the lowest function loss on validation; None if none was validated."""
        losses = {step: self._manager.metrics(step)[_METRIC] for step in self._manager.all_steps()}
        validated = [step for step, value in losses.items() if math.isfinite(value)]
        return min(validated, key=lambda step: losses[step]) if validated else None

    def close(self) -> None:
        """Waits for the last write.

        Raises:
          CheckpointWriteError: the write failed.
        """
        try:
            self.wait()
        finally:
            self._manager.close()
            logging.getLogger("absl").removeFilter(_not_orbax)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Converts any error of a write to a one-line `CheckpointWriteError`, and deletes the incomplete checkpoint."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many types for a full disk.
            whole = [int(path.name) for path in self._complete()]
            if processes.is_first():
                for partial in self._directory.glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(partial, ignore_errors=True)
            kept = f"the last complete one is of step {max(whole)}" if whole else "there is none before it"
            raise CheckpointWriteError(
                f"a checkpoint in {self._directory} cannot be written ({_first_line(error)}); {kept}.  If there is no "
                f"space left, {what_to_do_if_full()}"
            ) from error

    def _note_files(self) -> None:
        """Records sizes and checksums of a complete checkpoint's files, once all of them are on the disk.

        Orbax also detects most damage, but leaves hundreds of pending reads that log errors later.  A checkpoint
        without this record, because of a kill, was complete when it was renamed, and is trusted.
        """
        if self._read_only or not processes.is_first():
            return
        for path in self._complete():
            if not (path / _NOTED).exists():
                sync_tree(path)
                checksums = {name: [size, _sha256(path / name)] for name, size in _sizes(path).items()}
                write_atomically(path / _NOTED, json.dumps(checksums))

    def _set_aside_damaged(self) -> None:
        """Moves damaged checkpoints away before Orbax opens the folder, because it would fail on the first of them."""
        paths = self._complete()
        failures = [(int(path.name), reason) for path in paths if (reason := _damage(path))]
        if failures and len(failures) == len(paths):
            raise self._none_readable(failures)
        if failures and self._read_only:
            raise CheckpointError(
                f"checkpoint {failures[0][0]} in {self._directory} is damaged ({failures[0][1]}); resume the training, "
                "which sets it aside"
            )
        self._set_aside_all(failures)

    def _set_aside_all(self, failures: list[tuple[int, str]]) -> None:
        for step, reason in failures:
            self._set_aside(step, reason)

    def _complete(self) -> list[Path]:
        """Folders of complete checkpoints; Orbax writes under temporary names."""
        return [path for path in self._directory.glob("*") if path.name.isdecimal()]

    def _set_aside(self, step: int, reason: str) -> None:
        print(f"checkpoint {step} cannot be read ({reason}) and is skipped", file=sys.stderr)
        aside = self._directory.parent / "unreadable"
        aside.mkdir(exist_ok=True)
        shutil.rmtree(aside / str(step), ignore_errors=True)
        shutil.move(self._directory / str(step), aside / str(step))

    def _none_readable(self, failures: list[tuple[int, str]]) -> CheckpointError:
        step, reason = max(failures, key=lambda failure: failure[0])
        return CheckpointError(
            f"checkpoint {step} in {self._directory} cannot be read ({reason}), and there is no other "
            "readable one; delete that folder to start again from step 0"
        )


def _not_orbax(record: logging.LogRecord) -> bool:
    """Log filter: Orbax logs a long traceback of its thread before it raises the same error."""
    return not (record.levelno >= logging.ERROR and "orbax" in record.pathname)


def _drop_late_complaints() -> None:
    """Suppresses later messages about a failed write, whose reason Orbax has already raised.

    TensorStore's threads later report other writes to an event loop that Orbax has closed.  And Python warns about the
    writes that this loop never started, when it frees them.
    """
    warnings.filterwarnings("ignore", message=_NEVER_BEGUN.pattern, category=RuntimeWarning)
    before = sys.unraisablehook
    if getattr(before, "drops_late_complaints", False):
        return

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        late = isinstance(error, RuntimeError) and "Event loop is closed" in str(error)
        late |= "Event loop is closed" in str(getattr(error, "__cause__", ""))
        # If the program turns warnings into errors, this one arrives here, because it cannot be raised.
        late |= isinstance(error, RuntimeWarning) and _NEVER_BEGUN.match(str(error)) is not None
        if not late:
            before(unraisable)

    hook.drops_late_complaints = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook


def _sizes(step: Path) -> dict[str, int]:
    files = (path for path in step.rglob("*") if path.is_file() and _NOTED not in path.name)
    return {path.relative_to(step).as_posix(): path.stat().st_size for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage(step: Path) -> str:
    """What is wrong with the files of a checkpoint; empty if they are intact."""
    try:
        json.loads((step / "metrics" / "metrics").read_text(encoding="utf-8"))[_METRIC]
        noted = json.loads((step / _NOTED).read_text(encoding="utf-8")) if (step / _NOTED).exists() else {}
        found = _sizes(step)
        for name, known in noted.items():
            size, checksum = known if isinstance(known, list) else (known, None)
            if found.get(name) != size:
                return f"{name} has {found[name]} of {size} bytes" if name in found else f"{name} is missing"
            if checksum is not None and _sha256(step / name) != checksum:
                return f"{name} is damaged: its SHA-256 is not the recorded one"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return _first_line(error)
    return ""


def _validation_loss(metrics: Mapping[str, float]) -> float:
    return metrics[_METRIC]


def _by_name(state: TrainState) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
