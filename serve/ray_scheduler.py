"""A trial scheduler for Ray Tune that predicts what running trials come to.

    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", search_alg=OptFormerSearcher(), scheduler=OptFormerScheduler(space)
        ),
    )

It stops a trial where a better value than the best one is unlikely (`optformer.inference.early_stopping`).  It goes
with any search algorithm.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, Final

try:
    import optuna
    from ray.tune.result import TRAINING_ITERATION
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler
    from ray.tune.utils.util import flatten_dict
except ImportError as error:  # Ray without its extra `tune` raises this too
    raise ModuleNotFoundError(
        f"the scheduler needs Ray Tune and Optuna, not fully installed ({error}): pip install 'optformer[ray]'",
        name=error.name or "ray",
    ) from error

from vizier import pyvizier as vz

from optformer.facade import OptFormer, load
from optformer.inference.early_stopping import THRESHOLD, stopping
from optformer.serve import optuna_spaces
from optformer.serve.ray_tune import OptFormerSearcher

_DIRECTIONS: Final = {"min": optuna.study.StudyDirection.MINIMIZE, "max": optuna.study.StudyDirection.MAXIMIZE}


class OptFormerScheduler(FIFOScheduler):
    """Starts trials in their order, and stops those whose final value will hardly be the best one.

    It waits until four trials have finished.  Of several trials that run, the one that is ahead goes on.  The budget
    is the largest training iteration of any trial.
    """

    def __init__(
        self,
        space: Mapping[str, Any],
        metric: str | None = None,
        mode: str | None = None,
        *,
        model: OptFormer | str = "default",
        threshold: float = THRESHOLD,
    ):
        """
        Args:
          space: the tuner's `param_space`.
          metric, mode: of the results, and `min` or `max`; by default the tuner's.
          model: a model, or a checkpoint as of `OptFormer.from_pretrained`, trained with learning curves.
          threshold: probability of a new best value below which a trial is stopped.

        Raises:
          ValueError: a domain that cannot be searched (names it), no such checkpoint, one that was not trained with
            learning curves, no probability, or another mode.
        """
        super().__init__()
        self._model = load(model)
        self._model.check_reads_reports()
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold is a probability between 0 and 1, not {threshold}")
        self._threshold = threshold
        self._domains = optuna_spaces.domains(OptFormerSearcher.convert_search_space(dict(space)))
        self._metric, self._mode = metric, mode
        self._check_mode()
        self._trials: dict[str, vz.Trial] = {}
        self._numbers = itertools.count(1)

    def _check_mode(self) -> None:
        if self._mode is not None and self._mode not in _DIRECTIONS:
            raise ValueError(f"mode is 'min' or 'max', not {self._mode!r}")

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """What the tuner says of an experiment; False where the scheduler was told something already."""
        if (metric and self._metric) or (mode and self._mode):
            return False
        self._metric, self._mode = metric or self._metric, mode or self._mode
        self._check_mode()
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Keeps what the trial reports, and says whether it goes on.

        Raises:
          ValueError: metric or mode are not known.
        """
        if self._metric is None or self._mode is None:
            raise ValueError("the scheduler needs metric and mode, its own or those of TuneConfig")
        value, step = result.get(self._metric), result.get(TRAINING_ITERATION)
        known = self._known(trial)
        if not isinstance(value, int | float) or not math.isfinite(value) or not step:
            return str(TrialScheduler.CONTINUE)
        if not known.measurements or known.measurements[-1].steps < step:
            known.measurements.append(vz.Measurement({self._metric: float(value)}, steps=int(step)))
        metrics = [self._metric]
        problem = optuna_spaces.problem("no-name-ray", self._domains, [_DIRECTIONS[self._mode]], metrics, {})
        found = stopping(self._model, problem, list(self._trials.values()), known, self._threshold)
        if not found.stop:
            return str(TrialScheduler.CONTINUE)
        known.stopping_reason = found.reason
        return str(TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Ends a trial with its last result."""
        known = self._known(trial)
        value = result.get(str(self._metric))
        if known.stopping_reason is not None or known.final_measurement is not None:
            return
        if isinstance(value, int | float) and math.isfinite(value):
            known.complete(vz.Measurement({str(self._metric): float(value)}))
        else:
            known.complete(vz.Measurement(), infeasibility_reason="no finite value")

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Ends a trial as failed; one that is run again begins anew."""
        self._trials.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forgets a trial that was taken back before it ended."""
        self._trials.pop(trial.trial_id, None)

    def _known(self, trial: Any) -> vz.Trial:
        if trial.trial_id not in self._trials:
            flat: dict[str, Any] = flatten_dict(dict(trial.config))
            values = optuna_spaces.model_values(flat, self._domains)
            self._trials[trial.trial_id] = vz.Trial(values, id=next(self._numbers))
        return self._trials[trial.trial_id]

    def debug_string(self) -> str:
        """What Tune prints of it."""
        stopped = sum(trial.stopping_reason is not None for trial in self._trials.values())
        return f"OptFormerScheduler: {stopped} trials stopped."
