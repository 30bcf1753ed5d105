"""OptFormer as a search algorithm of Ray Tune.

tuner = tune.Tuner(
    trainable,
    param_space={"lr": tune.loguniform(1e-5, 1e-1), "layers": tune.randint(1, 9)},
    tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=50, search_alg=OptFormerSearcher(seed=0)),
)
"""

import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

try:
    from ray.tune.result import DEFAULT_METRIC, TRAINING_ITERATION
    from ray.tune.search import UNDEFINED_METRIC_MODE, UNDEFINED_SEARCH_SPACE, Searcher
    from ray.tune.utils.util import flatten_dict
except ImportError as error:  # Ray without its extra `tune` raises this too
    raise ModuleNotFoundError(
        f"the searcher needs Ray Tune, which is not fully installed ({error}): pip install 'optformer[ray]'",
        name=error.name or "ray",
    ) from error

from optformer.facade import OptFormer, load
from optformer.inference.acquisition import check_acquisition
from optformer.inference.constraints import Constraint
from optformer.serve import ray_spaces
from optformer.serve.domains import Domain, own_values
from optformer.serve.recorded_study import Recorded, RecordedStudy

_logger = logging.getLogger(__name__)

_FORMAT: Final = "optformer-ray-searcher-1"


class OptFormerSearcher(Searcher):
    """Suggests through `OptFormer.suggest`; all state is the trials that Ray Tune told of.

    Running trials are pending, failed ones infeasible, those that end without the metric count as stopped.  The same
    seed and the same trials give the same suggestions.  It never finishes by itself: `num_samples` says how many
    trials there are.
    """

    CKPT_FILE_TMPL = "searcher-state-{}.json"

    def __init__(
        self,
        space: Mapping[str, Any] | None = None,
        metric: str | list[str] | None = None,
        mode: str | list[str] | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        evaluated_rewards: Sequence[float] | None = None,
        seed: int | None = None,
        *,
        model: OptFormer | str = "default",
        acquisition: str = "ei",
        algorithm: str | None = None,
        constraints: Sequence[Constraint] = (),
    ):
        """
        Args:
          space: Ray's domains and constants by name, nested as the trainable's `config`; by default the tuner's
            `param_space`.
          metric, mode: of the results, and `min` or `max`; by default the tuner's.  Lists for several objectives.
          points_to_evaluate: run first, in order; dictionaries that are nested like the space, or with `a/b` as names.
          evaluated_rewards: the metric of each of these points, which are then not run.
          seed: non-negative; None draws one.
          model: a loaded model, a shipped name (`default`: the best for a CPU), or a checkpoint directory; loaded
            once per process.
          acquisition: `ei`, `pi`, `ucb`, `thompson` or `policy`.
          algorithm: the optimizer to imitate, by its name in the corpus.
          constraints: what the parameters of a suggestion must satisfy, as for `OptFormer.suggest`; predicates get the
            values by name, `a/b` where nested.

        Raises:
          ValueError: unknown model, acquisition or mode, negative seed, a domain that cannot be searched, or a point
            outside the space (names the parameter).
        """
        _check_goal(metric, mode)
        if seed is not None and seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        if evaluated_rewards is not None and len(evaluated_rewards) != len(points_to_evaluate or ()):
            raise ValueError(
                f"{len(evaluated_rewards)} evaluated_rewards for {len(points_to_evaluate or ())} points_to_evaluate"
            )
        goal: dict[str, Any] = {"metric": metric, "mode": mode}  # Ray annotates strings and takes lists
        super().__init__(**goal)
        load(model)
        # Ray copies searchers and sends them between processes: a name is all that need travel.
        self._model = model
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._acquisition, self._algorithm = check_acquisition(acquisition), algorithm
        self._constraints = tuple(constraints)
        self._points = list(points_to_evaluate or ())
        self._rewards = None if evaluated_rewards is None else list(evaluated_rewards)
        self._waiting: list[dict[str, Any]] = []
        self._kept: dict[str, Any] | None = None
        self._study: RecordedStudy | None = None
        self._space: dict[str, Any] = {}
        self._domains: dict[str, Domain] = {}
        # Constants of a space given here are part of each suggestion; those of `param_space` Tune knows itself.
        self._with_constants = space is not None
        self._space_restored = False
        if space:
            self._set_space(space)

    # The study.

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Takes the tuner's metric and mode where none were given, and its `param_space` where no space was.

        Returns:
          Whether it took the space.

        Raises:
          ValueError: a domain that cannot be searched, a point outside the space (names the parameter), or a state that
            was restored is another study's.
        """
        if self._study is None:
            self._metric, self._mode = self._metric or metric, self._mode or mode
        if self._domains and not self._space_restored:
            return False
        if self._study is not None:  # of a state whose space came with it: it has to fit this one
            self._kept, self._study = self._state(self._study), None
        self._set_space(config)
        self._with_constants = self._space_restored = False
        if self._kept is not None and self._metric and self._mode:
            self._ready()
        return True

    def _set_space(self, space: Mapping[str, Any]) -> None:
        self._space = dict(space)
        self._domains = dict(ray_spaces.domains(space))
        points = [self._own(point, f"points_to_evaluate[{index}]") for index, point in enumerate(self._points)]
        if self._rewards is None:
            self._waiting = points

    def _own(self, point: Mapping[str, Any], which: str, strict: bool = True) -> dict[str, Any]:
        return own_values(self._domains, dict(ray_spaces.leaves(point, self._space, self._domains, strict)), which)

    def _ready(self) -> RecordedStudy:
        """The study, once space and metric are known.

        Raises:
          RuntimeError: they are not.
          ValueError: metric and mode do not match, or the state that was restored is another study's.
        """
        if self._study is None:
            name = type(self).__name__
            if not self._domains and self._kept is not None:
                raise RuntimeError("the saved state lacks the space, which holds objects: give `param_space` again")
            if not self._domains:
                raise RuntimeError(UNDEFINED_SEARCH_SPACE.format(cls=name, space="space"))
            if self._mode and not self._metric and isinstance(self._mode, str):
                self._metric = DEFAULT_METRIC
            if not self._metric or not self._mode:
                raise RuntimeError(UNDEFINED_METRIC_MODE.format(cls=name, metric=self._metric, mode=self._mode))
            _check_goal(self._metric, self._mode)
            modes = [self._mode] if isinstance(self._mode, str) else self._mode
            maximised = [mode == "max" for mode in modes]
            self._study = RecordedStudy(self._domains, dict(zip(self._metric_names(), maximised, strict=True)))
            try:
                if self._kept is not None:
                    self._load(self._study, self._kept)
                elif self._rewards is not None:
                    for point, reward in zip(self._points, self._rewards, strict=True):
                        self.add_evaluated_point(dict(point), reward)
            except ValueError:
                self._study = None  # no half of it
                raise
        return self._study

    def _metric_names(self) -> list[str]:
        return [self._metric] if isinstance(self._metric, str) else list(self._metric or ())

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The configuration of a new trial, the same again for a trial that has one.

        Raises:
          RuntimeError: the space or the metric is not known.
          ValueError: as `OptFormer.suggest`.
        """
        study = self._ready()
        known = study.find(trial_id)
        if known is not None:
            own = study.own(known.parameters)
        else:
            if self._waiting:
                own = self._waiting.pop(0)
            else:
                own = study.suggest(
                    load(self._model),
                    acquisition=self._acquisition,
                    algorithm=self._algorithm,
                    seed=self._seed,
                    constraints=self._constraints,
                )
            study.record(trial_id, own)
        filled: dict[str, Any] = ray_spaces.filled(self._space, own, self._with_constants)
        return filled

    # What came of the trials.

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keeps an intermediate result of a single objective; results without the metric are passed over."""
        trial = self._ready().find(trial_id)
        values = self._values(result)
        if trial is not None and values is not None and len(values) == 1:
            trial.report(int(result.get(TRAINING_ITERATION, len(trial.reports) + 1)), values[0])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ends a trial; one told again replaces what was told before."""
        trial = self._ready().find(trial_id) or self._stranger(trial_id, result)
        if trial is None:
            _logger.warning("trial %s was not suggested here; its result is ignored", trial_id)
            return
        values = self._values(result)
        if values is None and not error:
            _logger.warning("trial %s: ended without %s; it counts as stopped", trial_id, self._metric)
        trial.finish(values, failed=error)

    def _stranger(self, trial_id: str, result: Mapping[str, Any] | None) -> Recorded | None:
        """A trial that was not suggested here, such as a failed one that Tune runs again under another id."""
        flat = flatten_dict(dict(result or {}))
        config = {name.removeprefix("config/"): value for name, value in flat.items() if name.startswith("config/")}
        try:
            return self._ready().record(trial_id, self._own(config, f"trial {trial_id}", strict=False))
        except ValueError:
            return None

    def _values(self, result: Mapping[str, Any] | None) -> list[float] | None:
        """The objectives of a result, None unless all are there."""
        flat: Mapping[str, Any] = result or {}
        names = self._metric_names()
        if any(name not in flat for name in names):
            flat = flatten_dict(dict(flat))
        try:
            return [float(flat[name]) for name in names]
        except (KeyError, TypeError, ValueError):  # not there, or no number
            return None

    def add_evaluated_point(
        self,
        parameters: dict[str, Any],
        value: Any,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: list[float] | None = None,
    ) -> None:
        """Adds a trial that was run elsewhere.

        Args:
          parameters: nested like the space, or with `a/b` as names; what is not in the space is passed over.
          value: the metric, or a list with one per objective; passed over if the trial failed or was pruned.
          error: whether it failed.
          pruned: whether it was stopped early, and so has no objective.
          intermediate_values: the metric after each step, from step 0.

        Raises:
          RuntimeError: the space or the metric is not known.
          ValueError: a parameter is missing or outside the space, or a value is missing (names it).
        """
        study = self._ready()
        which = f"evaluated point {len(study.trials)}"
        own = self._own(parameters, which, strict=False)
        values = None
        if not (error or pruned):
            given = list(value) if isinstance(value, Sequence | np.ndarray) else [value]
            try:
                values = [float(each) for _, each in zip(study.objectives, given, strict=True)]
            except (TypeError, ValueError):
                names = ", ".join(study.objectives)
                raise ValueError(f"{which}: value {value!r} does not give a number for each of {names}") from None
        trial = study.record(None, own)
        for step, each in enumerate(intermediate_values or ()):
            trial.report(step, each)
        trial.finish(values, failed=error)

    # State.

    def save(self, checkpoint_path: str) -> None:
        """Writes the state as JSON, all of it or nothing.

        The model is not part of it, nor is a space that holds objects other than plain values, lists, tuples and
        dictionaries.
        """
        state: dict[str, Any] = self._kept or {"format": _FORMAT, "study": None}
        if self._domains and self._metric and self._mode:
            state = self._state(self._ready())
        text, path = json.dumps(state), Path(checkpoint_path)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as directory:
            whole = Path(directory, path.name)
            with whole.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(whole, path)

    def _state(self, study: RecordedStudy) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "study": study.to_json(),
            "space": ray_spaces.to_json(self._space, self._domains, self._with_constants),
            "waiting": [study.to_model(own) for own in self._waiting],
            "metric": self._metric,
            "mode": self._mode,
            "seed": self._seed,
            "acquisition": self._acquisition,
            "algorithm": self._algorithm,
        }

    def restore(self, checkpoint_path: str) -> None:
        """Goes on from what `save` wrote: trials, points that wait, seed and acquisition, in place of its own.

        Space, metric and mode too, where it has none.

        Raises:
          ValueError: no such file's content, or another study's (says what differs).
          OSError: it cannot be read.
        """
        try:
            state = json.loads(Path(checkpoint_path).read_text())
            understood = state["format"] == _FORMAT
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{checkpoint_path}: is no state of this searcher: {error!r}") from error
        if not understood:
            raise ValueError(f"{checkpoint_path}: is no state of this searcher: {state['format']!r}")
        if state["study"] is None:
            return
        try:
            if not self._domains and state["space"] is not None:
                self._space, self._domains = ray_spaces.from_json(state["space"])
                self._with_constants = self._space_restored = True
            self._metric, self._mode = self._metric or state["metric"], self._mode or state["mode"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{checkpoint_path}: is no state of this searcher: {error!r}") from error
        self._kept, self._study = state, None
        if self._domains and self._metric and self._mode:
            self._ready()

    def _load(self, study: RecordedStudy, state: dict[str, Any]) -> None:
        try:
            study.load_json(state["study"])
            self._waiting = [study.own(parameters) for parameters in state["waiting"]]
            self._seed, self._acquisition = int(state["seed"]), check_acquisition(state["acquisition"])
            self._algorithm = state["algorithm"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the state to restore does not fit: {error}") from error
        self._kept = None


def _check_goal(metric: str | list[str] | None, mode: str | list[str] | None) -> None:
    """
    Raises:
      ValueError: another mode than `min` and `max`, or not as many modes as metrics.
    """
    for each in mode if isinstance(mode, list) else [mode]:
        if each not in (None, "min", "max"):
            raise ValueError(f"mode is 'min' or 'max', not {each!r}")
    if metric is not None and mode is not None:
        counts = {len(each) if isinstance(each, list) else 0 for each in (metric, mode)}
        if len(counts) > 1:
            raise ValueError(f"metric {metric!r} and mode {mode!r} must be two strings or two lists of one length")
