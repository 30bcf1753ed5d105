"""Checkpoints of a run: atomic, written while training goes on, the latest ones kept and the best one.

A checkpoint holds the whole `TrainState` by name of leaf, and `progress`: plain numbers of the host (step, seed,
unfinished line of the log).  Data position and randomness are functions of seed and step, so they are in it too.
"""

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
    """

    def __init__(self, directory: Path, keep: int = 2, read_only: bool = False):
        self._directory = directory.absolute()
        self._read_only = read_only
        # Written by name and read by name: the same files serve whatever classes the state is made of.
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_names=("state", "progress"),
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                # Leftovers of a save that was cut off by a kill.
                cleanup_tmp_directories=not read_only,
                preservation_policy=AnyPreservationPolicy(
                    [
                        LatestN(keep),
                        BestN(
                            get_metric_fn=lambda metrics: metrics[_METRIC],
                            reverse=True,
                            n=1,
                            keep_checkpoints_without_metrics=False,
                        ),
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
            metrics=None if validation_loss is None else {_METRIC: validation_loss},
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
                told = f"checkpoint {broken} cannot be read ({_first_line(reason)})"
                print(f"{told}: going on from {step}", file=sys.stderr)
                if not self._read_only:
                    self._set_aside(broken)
            if failures:
                self._manager.reload()
            return restored
        if failures:
            step, reason = failures[0]
            raise CheckpointError(
                f"none of the {len(failures)} checkpoints in {self._directory} can be read (step {step}: "
                f"{_first_line(reason)}); delete that folder to begin again from step 0"
            )
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
        losses = {
            step: metrics[_METRIC] for step in self._manager.all_steps() if (metrics := self._manager.metrics(step))
        }
        return min(losses, key=lambda step: losses[step]) if losses else None

    def close(self) -> None:
        """Waits for the last write."""
        self._manager.close()

    def _set_aside(self, step: int) -> None:
        aside = self._directory.parent / "unreadable"
        aside.mkdir(exist_ok=True)
        shutil.rmtree(aside / str(step), ignore_errors=True)
        shutil.move(self._directory / str(step), aside / str(step))


def _by_name(state: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
