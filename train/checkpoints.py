"""Checkpoints of a run: atomic, written while training goes on, the latest ones kept and the best one.

A checkpoint holds the whole `TrainState` by name of leaf, and `progress`: plain numbers of the host (step, seed,
unfinished line of the log).  Data position and randomness are functions of seed and step, so they are in it too.
"""

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from optformer.model.checkpoint import CheckpointError
from optformer.train.step import TrainState

_METRIC = "validation_function_loss"


class Restored(NamedTuple):
    """A checkpoint that was read."""

    step: int
    state: TrainState
    progress: dict[str, Any]


class Checkpoints:
    """The folder `checkpoints/` of a working directory.

    Args:
      directory: created unless `read_only`.
      keep: latest checkpoints kept, beside the best.
      read_only: for a look at the checkpoints of a run that may be going on.

    Raises:
      CheckpointError: there are checkpoints, and all of them are damaged.
    """

    def __init__(self, directory: Path, keep: int = 2, read_only: bool = False):
        self._directory = directory.absolute()
        self._read_only = read_only
        self._set_aside_without_metrics()
        # Written by name and read by name: the same files serve whatever classes the state is made of.
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_names=("state", "progress"),
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                # Leftovers of a save that was cut off by a kill.
                cleanup_tmp_directories=not read_only,
                # Without it Orbax writes no metrics; what is kept is the policy's business alone.
                best_fn=_validation_loss,
                preservation_policy=AnyPreservationPolicy(
                    [
                        LatestN(keep),
                        BestN(get_metric_fn=_validation_loss, reverse=True, n=1),
                    ]
                ),
            ),
        )

    def save(self, state: TrainState, progress: dict[str, Any], validation_loss: float | None) -> None:
        """Returns as soon as the state has been copied; a later save or `close` waits for the write."""
        self._manager.save(
            int(progress["step"]),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_by_name(state)),
                progress=ocp.args.JsonSave(progress),
            ),
            # Never the best: a checkpoint between validations.
            metrics={_METRIC: math.inf if validation_loss is None else validation_loss},
            force=True,
        )

    def restore_latest(self, abstract_state: TrainState) -> Restored | None:
        """The latest checkpoint that can be read, or None where there is none at all.

        Unreadable ones are passed over, and moved to `unreadable/` beside once an older one has been read.

        Raises:
          CheckpointError: there are checkpoints, and none can be read.
        """
        failures: list[tuple[int, Exception]] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self.restore(step, abstract_state)
            except Exception as error:  # Damage has many faces: missing files, truncated arrays, bad JSON.
                failures.append((step, error))
                continue
            for broken, reason in failures:
                self._set_aside(broken, reason)
            if failures:
                self._manager.reload()
            return restored
        if failures:
            raise self._none_readable(failures)
        return None

    def restore(self, step: int, abstract_state: TrainState) -> Restored:
        """The checkpoint of this step; raises whatever Orbax raises where it cannot be read."""
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
        """The kept step with the lowest function loss on validation; None where none was validated."""
        losses = {step: self._manager.metrics(step)[_METRIC] for step in self._manager.all_steps()}
        validated = [step for step, value in losses.items() if math.isfinite(value)]
        return min(validated, key=lambda step: losses[step]) if validated else None

    def close(self) -> None:
        """Waits for the last write."""
        self._manager.close()

    def _set_aside_without_metrics(self) -> None:
        """Orbax reads the metrics of every checkpoint when it opens the folder, and fails on the first bad one."""
        steps = [path for path in self._directory.glob("*") if path.name.isdecimal()]
        failures: list[tuple[int, Exception]] = []
        for path in steps:
            try:
                json.loads((path / "metrics" / "metrics").read_text(encoding="utf-8"))[_METRIC]
            except (OSError, ValueError, KeyError, TypeError) as error:
                failures.append((int(path.name), error))
        if failures and (self._read_only or len(failures) == len(steps)):
            raise self._none_readable(failures)
        for step, reason in failures:
            self._set_aside(step, reason)

    def _set_aside(self, step: int, reason: Exception) -> None:
        print(f"checkpoint {step} cannot be read ({_first_line(reason)}) and is passed over", file=sys.stderr)
        if self._read_only:
            return
        aside = self._directory.parent / "unreadable"
        aside.mkdir(exist_ok=True)
        shutil.rmtree(aside / str(step), ignore_errors=True)
        shutil.move(self._directory / str(step), aside / str(step))

    def _none_readable(self, failures: list[tuple[int, Exception]]) -> CheckpointError:
        step, reason = max(failures, key=lambda failure: failure[0])
        return CheckpointError(
            f"checkpoint {step} in {self._directory} cannot be read ({_first_line(reason)}), nor can any other be used "
            "instead; delete that folder to begin again from step 0"
        )


def _validation_loss(metrics: Any) -> float:
    return metrics[_METRIC]


def _by_name(state: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
