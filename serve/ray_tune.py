"""OptFormer for Ray Tune: a search algorithm, Ray's `OptunaSearch` with the sampler of `optformer.serve.optuna`, and a
trial scheduler, which stops trials by their predicted final value.

tuner = tune.Tuner(
    trainable,
    param_space={"lr": tune.loguniform(1e-5, 1e-1), "layers": tune.randint(1, 9)},
    tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=50, search_alg=OptFormerSearcher(seed=0)),
)
"""

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vizier import pyvizier as vz

from optformer.extras import from_extra

with from_extra("ray", user="searcher or scheduler"):
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.study import Study, StudyDirection
    from optuna.trial import FrozenTrial
    from ray import cloudpickle
    from ray.tune.result import TRAINING_ITERATION
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler
    from ray.tune.search import sample
    from ray.tune.search.optuna import OptunaSearch
    from ray.tune.search.variant_generator import parse_spec_vars
    from ray.tune.utils.util import flatten_dict, unflatten_dict

from optformer.facade import OptFormer, load
from optformer.files import write_atomically
from optformer.inference import costs
from optformer.inference.beliefs import Belief
from optformer.inference.constraints import Constraint
from optformer.inference.early_stopping import THRESHOLD, stopping
from optformer.serve import optuna_spaces
from optformer.serve.domains import MOST_VALUES, Domain, Numbers, Steps
from optformer.serve.optuna import OptFormerSampler
from optformer.serve.optuna_spaces import KnownSpace

_logger = logging.getLogger(__name__)

_DIRECTIONS: Final = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}


def _are_optunas(space: Mapping[str, object]) -> bool:
    return all(isinstance(each, BaseDistribution) for each in space.values())


class OptFormerSearcher(OptunaSearch):
    """Suggests through `OptFormer.suggest`; the trials are an Optuna study.

    Running trials are pending.  Failed trials, and those with a metric that is not finite, are infeasible.  Trials that
    end without the metric count as stopped.  A trial that a scheduler has stopped counts with a final value that is
    extrapolated from its reports (`optformer.inference.stopped`); for the trials with the most steps, this is the last
    report.  The same seed and the same trials give the same suggestions.  The searcher never ends the experiment:
    `num_samples` sets the number of trials.
    """

    # Attribute of `OptunaSearch`, which has a wider type there.
    _sampler: "_Sampler"
    _ot_study: Any
    _space: Any
    _metric: Any

    def __init__(
        self,
        space: Mapping[str, Any] | Callable[..., Any] | None = None,
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
        prior_studies: Sequence[Study | vz.ProblemAndTrials] = (),
        belief: Mapping[str, Belief] | None = None,
        cost: str | None = None,
    ):
        """
        Args:
          space: by default the tuner's `param_space`.  Else metric and mode are required, too, and the space is as for
            `OptunaSearch`: Ray's domains and constants by name, or a function of an Optuna trial.
          metric: name of the objective in the results; by default the tuner's.  A list for several objectives.
          mode: `min` or `max`; by default the tuner's.  A list for several objectives.
          points_to_evaluate: run first, in order; nested like the space, or with `a/b` as names.  The model chooses
            the parameters that a point lacks.
          evaluated_rewards: the metric of each of these points, which are then not run again.
          seed: as for `OptFormerSampler`.
          model: as for `OptFormerSampler`.
          acquisition: as for `OptFormerSampler`.
          algorithm: as for `OptFormerSampler`.
          constraints: as for `OptFormerSampler`, but also for the first trial.  Names of nested parameters are `a/b`.
          prior_studies: as for `OptFormerSampler`.
          belief: as for `OptFormerSampler`; names of nested parameters are `a/b`.
          cost: name of a number in the last result of each trial, such as `time_total_s`, as for `OptFormer.suggest`.

        Raises:
          AssertionError: a mode other than `min` and `max`, or metric and mode that do not match (from Ray).
          ValueError: unknown model or acquisition, negative seed, a domain that cannot be searched, a point outside
            the space (names the parameter), an invalid belief, or a cost with an acquisition other than `ei` or `pi`.
        """
        if evaluated_rewards is not None and len(evaluated_rewards) != len(points_to_evaluate or ()):
            raise ValueError(
                f"{len(evaluated_rewards)} evaluated_rewards for {len(points_to_evaluate or ())} points_to_evaluate"
            )
        converted = self.convert_search_space(dict(space)) if isinstance(space, Mapping) else {}
        if not converted and isinstance(space, Mapping) and not _are_optunas(space):
            raise ValueError("the search space has only constants; give a domain such as tune.uniform(0, 1)")
        # Tune itself adds the constants of `param_space`.
        given = flatten_dict(dict(space)) if converted and isinstance(space, Mapping) else {}
        self._constants = {name: value for name, value in given.items() if name not in converted}
        arguments: dict[str, Any] = {  # Ray's annotations allow only lists and dictionaries
            "space": converted or space,
            "metric": metric,
            "mode": mode,
            "points_to_evaluate": list(points_to_evaluate or ()),
            "evaluated_rewards": evaluated_rewards,
        }
        sampler = _Sampler(
            model,
            seed=seed,
            acquisition=acquisition,
            algorithm=algorithm,
            constraints=constraints,
            prior_studies=prior_studies,
            belief=belief,
            cost=cost,
        )
        self._cost = cost
        # The model reads a study's name as its title, but not a placeholder like this one.
        super().__init__(**arguments, sampler=sampler, study_name="no-name-ray")
        self._stop: Any = {}

    @staticmethod
    def convert_search_space(spec: dict[str, Any]) -> dict[str, BaseDistribution]:
        """Optuna's distributions by name; names of nested parameters are `a/b`.

        Raises:
          ValueError: a domain that cannot be searched (names it).
        """
        found: dict[str, BaseDistribution] = {}
        _, domains, grids = parse_spec_vars(spec)
        for path, domain in (*domains, *grids):
            name = "/".join(map(str, path))
            try:
                if name in found:
                    raise ValueError("two parameters have this name; names of nested parameters are joined with '/'")
                if not all(isinstance(key, str) for key in path):
                    raise ValueError("domains in lists, and under keys that are not strings, are not supported")
                found[name] = OptunaSearch.convert_search_space({"p": _listed(domain)})["p"]
            except ValueError as error:
                raise ValueError(f"parameter {name!r}: {error}") from error
        return found

    def set_search_properties(self, metric: Any, mode: Any, config: dict[str, Any], **spec: Any) -> bool:
        """Sets the properties of the experiment, as `OptunaSearch` does; also its stopping criterion (`stop`)."""
        self._stop = spec.get("stop") or {}
        return super().set_search_properties(metric, mode, config, **spec)

    def _setup_study(self, mode: str | list[str]) -> None:
        points, self._points_to_evaluate = self._points_to_evaluate, []
        self._sampler.space = None if callable(self._space) else self._space
        super()._setup_study(mode)
        named = [self._named(point, f"points_to_evaluate[{index}]") for index, point in enumerate(points)]
        if self._evaluated_rewards is not None:
            for point, reward in zip(named, self._evaluated_rewards, strict=True):
                self.add_evaluated_point(point, reward)
        else:
            for point in named:
                self._ot_study.enqueue_trial(point)

    def _named(self, point: Mapping[str, object], which: str) -> dict[str, Any]:
        """The values of a point by name, in the domains' own form."""
        flat: dict[str, Any] = flatten_dict(dict(point))
        if callable(self._space):
            return flat
        domains = self._sampler._domains(self._space)
        for name, value in flat.items():
            if name not in self._space:
                raise ValueError(
                    f"{which}: the search space has no parameter {name!r}; it has {', '.join(self._space)}"
                )
            try:
                flat[name] = domains[name].own(value) if name in domains else value
            except ValueError as error:
                raise ValueError(f"{which}: parameter {name!r}: {error}") from error
        return flat

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The configuration of a trial, with the constants of a space that was given to the searcher."""
        suggested: dict[str, Any] | None = super().suggest(trial_id)
        if suggested is None or not self._constants:
            return suggested
        return unflatten_dict(self._constants | flatten_dict(suggested))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keeps an intermediate result of a single objective."""
        if trial_id in self._ot_trials and trial_id not in self._completed_trials:
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ends a trial.  If Tune runs a failed trial again, it is added as a new trial with the same parameters."""
        flat: dict[str, Any] = flatten_dict(dict(result or {}))
        names = [self._metric] if isinstance(self._metric, str) else self._metric
        values: list[Any] = [flat.get(name) for name in names]
        stopped = None in values
        failed = error or not (stopped or all(map(math.isfinite, values)))
        if trial_id in self._ot_trials and trial_id not in self._completed_trials:
            if not (failed or stopped) and self._was_cut_off(trial_id, flat):
                super().on_trial_result(trial_id, flat)
                stopped = True
            if self._cost is not None and self._cost in flat and not (failed or stopped):
                value = costs.usable_value(flat[self._cost], self._cost, f"trial {trial_id}")
                if value is not None:
                    self._ot_trials[trial_id].set_user_attr(self._cost, value)
            super().on_trial_complete(trial_id, None if failed or stopped else flat, failed)
            return
        config = {name.removeprefix("config/"): each for name, each in flat.items() if name.startswith("config/")}
        try:
            self.add_evaluated_point(config, values[0], failed, pruned=stopped)
        except (TypeError, ValueError) as problem:
            _logger.warning("trial %s was not suggested by this searcher; its result is ignored: %s", trial_id, problem)

    def _was_cut_off(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether a scheduler has stopped the trial.

        A result that leads to a stop reaches the searcher only when the trial ends.  If a trial ends by itself, its
        last result has been passed before.  A trial that meets the experiment's criterion (`stop`) is complete.
        """
        step = result.get(TRAINING_ITERATION)
        if not isinstance(self._metric, str) or step is None or not isinstance(self._stop, Mapping):
            return False
        reports = self._ot_study._storage.get_trial(self._ot_trials[trial_id]._trial_id).intermediate_values
        met = any(name in result and result[name] >= limit for name, limit in self._stop.items())
        return step not in reports and not met

    def add_evaluated_point(self, parameters: dict[str, Any], value: float, *args: Any, **kwargs: Any) -> None:
        """Adds a trial that was run elsewhere, as `OptunaSearch` does; ignores values that are not in the space.

        Raises:
          RuntimeError, TypeError: the space or the metric is not known yet, or the space is a function.
          ValueError: a parameter is missing or outside the space.
        """
        if isinstance(self._space, Mapping):
            inside = {name: each for name, each in flatten_dict(dict(parameters)).items() if name in self._space}
            parameters = self._named(inside, "evaluated point")
        super().add_evaluated_point(parameters, value, *args, **kwargs)

    def save(self, checkpoint_path: str) -> None:
        """Writes the state; unlike `OptunaSearch`, also if a choice is a lambda or a class of a notebook."""
        write_atomically(Path(checkpoint_path), cloudpickle.dumps(self.__dict__))


class OptFormerScheduler(FIFOScheduler):
    """Starts trials in order, and stops those that are unlikely to become the best.

        scheduler = OptFormerScheduler(param_space)  # of TuneConfig, with any search algorithm

    No trial is stopped before four have finished, or while it is ahead of all other running trials.  The budget is the
    largest training iteration of any trial (`optformer.inference.early_stopping`).
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
          metric: name of the objective in the results; by default the tuner's.
          mode: `min` or `max`; by default the tuner's.
          model: a model or checkpoint, as for `OptFormer.from_pretrained`, that was trained with learning curves.
          threshold: probability of a new best value below which a trial is stopped.

        Raises:
          ValueError: a domain that cannot be searched (names it), no such checkpoint, one that was not trained with
            learning curves, a threshold outside [0, 1], or a mode other than `min` and `max`.
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
            raise ValueError(f"mode must be 'min' or 'max', not {self._mode!r}")

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Sets metric and mode of the tuner; returns False if they were set before."""
        if (metric and self._metric) or (mode and self._mode):
            return False
        self._metric, self._mode = metric or self._metric, mode or self._mode
        self._check_mode()
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Records a report of the trial, and decides whether it continues.

        Raises:
          ValueError: neither the scheduler nor the tuner has a metric and mode.
        """
        if self._metric is None or self._mode is None:
            raise ValueError("OptFormerScheduler needs metric and mode: give them here or in TuneConfig")
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
        """Ends a trial as failed; a trial that runs again starts over."""
        self._trials.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forgets a trial that Tune removes before it has ended."""
        self._trials.pop(trial.trial_id, None)

    def _known(self, trial: Any) -> vz.Trial:
        if trial.trial_id not in self._trials:
            flat: dict[str, Any] = flatten_dict(dict(trial.config))
            values = optuna_spaces.model_values(flat, self._domains)
            self._trials[trial.trial_id] = vz.Trial(values, id=next(self._numbers))
        return self._trials[trial.trial_id]

    def debug_string(self) -> str:
        """The text that Tune prints."""
        stopped = sum(trial.stopping_reason is not None for trial in self._trials.values())
        return f"OptFormerScheduler: {stopped} trials stopped."


class _Sampler(OptFormerSampler):
    """The sampler, with a space that is known before the first trial, and with ordered choices of numbers.

    Attributes:
      space: distributions by name; None if the space is a function.
    """

    def __init__(self, model: OptFormer | str, **arguments: Any):
        super().__init__(model, **arguments)
        self._given = model
        self.space: dict[str, BaseDistribution] | None = None

    def __getstate__(self) -> dict[str, object]:
        # Tune saves its searcher repeatedly, so only the name of the model is written.
        return super().__getstate__() | {"_model": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state | {"_model": load(state["_given"])})

    def _known_space(self, trials: Sequence[FrozenTrial]) -> KnownSpace:
        known = super()._known_space(trials)
        if self.space is None:
            return known
        newest = {name: self.space[name] for name in self._domains(self.space)}
        return KnownSpace(newest, newest | {name: each for name, each in known.united.items() if name in newest}, {})

    def _domains(self, space: Mapping[str, BaseDistribution]) -> dict[str, Domain]:
        return {name: _numbers(space[name]) or domain for name, domain in super()._domains(space).items()}


def _numbers(distribution: BaseDistribution) -> Numbers | None:
    """The choices in ascending order if all are numbers; else None.  Ray has no ordered choices."""
    choices: Sequence[Any] = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
    numbers = {each for each in choices if type(each) in (int, float) and math.isfinite(each)}
    return Numbers(tuple(sorted(numbers))) if 0 < len(choices) == len(numbers) else None


def _listed(domain: Any) -> sample.Domain:
    """A domain with a step as a choice of its multiples, if the model supports so many.

    Optuna counts steps from the lower bound where Ray counts from zero, and has none on a logarithmic scale.

    Raises:
      ValueError: no multiple is in the range, or a choice holds domains of its own.
    """
    sampler: Any = domain.get_sampler()
    if isinstance(domain, sample.Categorical) and any(parse_spec_vars({"c": list(domain.categories)})[1:]):
        raise ValueError("a choice contains a search space; give a function as `space` instead")
    if not isinstance(sampler, sample.Quantized) or isinstance(sampler.sampler, sample.Normal):
        return domain
    integral = isinstance(domain, sample.Integer)
    # Ray excludes the upper bound of integers, unless there is a step other than 1.
    steps = Steps(domain.lower, domain.upper - (integral and sampler.q == 1), sampler.q, integral=integral)
    return sample.Categorical(steps.values()).uniform() if steps.count <= MOST_VALUES else domain
