"""OptFormer as an Optuna sampler.

study = optuna.create_study(sampler=OptFormerSampler("path/to/checkpoint", seed=0))
"""

import hashlib
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from vizier import pyvizier as vz

from optformer.facade import METADATA_NAMESPACE, OptFormer, load
from optformer.inference.acquisition import check_acquisition
from optformer.inference.constraints import Constraint
from optformer.serve import optuna_spaces
from optformer.serve.domains import Domain, constraints_over

SUGGESTED: Final = "optformer:suggested"
"""System attribute of a trial: the suggested parameters (JSON, choices as labels), so that trials that run at the same
time see each other's points before the objective function has asked for them."""

REASON: Final = "optformer:reason"
"""System attribute of a trial: why it was suggested, a JSON object of the suggestion's metadata."""

_ATTEMPTS: Final = 3
"""At a point that no other trial has; a space that is exhausted has none."""

_logger = logging.getLogger(__name__)


class OptFormerSampler(BaseSampler):
    """Suggests all parameters that every finished trial has through `OptFormer.suggest`; the others at random.

    Running trials are pending, pruned ones count as stopped without an objective, failed ones as infeasible.  Studies
    may have several objectives.  Suggestions depend on the seed and the storage's trials alone, so a study can
    be resumed in another process.  Parameters with more than 1000 choices, and those that some trials lack, are sampled
    independently.
    """

    def __init__(
        self,
        model: OptFormer | str = "default",
        *,
        seed: int | None = None,
        acquisition: str = "ei",
        algorithm: str | None = None,
        constraints: Sequence[Constraint] = (),
    ):
        """
        Args:
          model: a loaded model, a shipped name (`default`: the best for a CPU), or a checkpoint directory; loaded
            once per process.
          seed: non-negative; None draws one.
          acquisition: `ei`, `pi`, `ucb`, `thompson` or `policy`.
          algorithm: the optimizer to imitate, by its name in the corpus.
          constraints: what the parameters of a suggestion must satisfy, as for `OptFormer.suggest`; predicates get the
            values that the objective function would get.  The first trial of a study is sampled without them, since
            Optuna knows no parameters before it; `study.enqueue_trial` chooses it.

        Raises:
          ValueError: unknown model or acquisition, negative seed.
        """
        if seed is not None and seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self._model = load(model)
        self._seed = _fresh_seed() if seed is None else seed
        self._acquisition = check_acquisition(acquisition)
        self._algorithm = self._model.check_algorithm(algorithm)
        self._constraints = tuple(constraints)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def reseed_rng(self) -> None:
        """A new random seed: Optuna calls this on the copies of a sampler that run in parallel."""
        self._seed = _fresh_seed()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Parameters that every finished trial has with the same distribution, as far as the model can express them."""
        # Afresh each time: Optuna's own cache of it binds a sampler to one study.
        space = intersection_search_space(study.get_trials(deepcopy=False), include_pruned=True)
        return {name: space[name] for name in self._domains(space)}

    def _domains(self, space: Mapping[str, BaseDistribution]) -> dict[str, Domain]:
        return optuna_spaces.domains(space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One suggestion for all parameters of `search_space`."""
        if not search_space:
            return {}
        metric_names = study.metric_names
        parameters = self._domains(search_space)
        problem = optuna_spaces.problem(study.study_name, parameters, study.directions, metric_names)
        objectives = optuna_spaces.objective_names(study.directions, metric_names)
        storage, number = study._storage, str(trial.number)
        # One at a time: the next thread then sees this one's point.
        with self._lock:
            for attempt in range(_ATTEMPTS):
                # Cold starts follow one sequence, so one seed; workers that collided part by the trial's number.
                seed = _derived_seed(self._seed, "study" if attempt == 0 else f"{number}/{attempt}")
                trials = self._trials(study, trial, parameters, objectives)
                (suggestion,) = self._model.suggest(
                    problem,
                    trials,
                    acquisition=self._acquisition,
                    algorithm=self._algorithm,
                    seed=seed,
                    constraints=constraints_over(parameters, self._constraints),
                )
                labels = suggestion.parameters.as_dict()
                announced = json.dumps(labels)
                storage.set_trial_system_attr(trial._trial_id, SUGGESTED, announced)
                # Another process may have come to the same point meanwhile, and even have finished it: of the two, the
                # later one sees the other's.
                others = study.get_trials(deepcopy=False)
                if all(o.number == trial.number or o.system_attrs.get(SUGGESTED) != announced for o in others):
                    break
        reason = dict(suggestion.metadata.ns(METADATA_NAMESPACE).items())
        storage.set_trial_system_attr(trial._trial_id, REASON, json.dumps(reason))
        return {name: each.from_model(labels[name]) for name, each in parameters.items()}

    def _trials(
        self, study: Study, current: FrozenTrial, parameters: Mapping[str, Domain], objectives: list[str]
    ) -> list[vz.Trial]:
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL)
        trials = []
        for frozen in study.get_trials(deepcopy=False, states=states):
            if frozen.number == current.number:
                continue
            params = frozen.params
            if frozen.state == TrialState.RUNNING and SUGGESTED in frozen.system_attrs:
                params = self._announced(frozen, parameters) | params
            converted = optuna_spaces.trial(frozen, params, parameters, objectives)
            if len(converted.parameters):  # a trial that failed or still waits before its first parameter says nothing
                trials.append(converted)
        return trials

    @staticmethod
    def _announced(frozen: FrozenTrial, parameters: Mapping[str, Domain]) -> dict[str, object]:
        """Parameters that a running trial was given, as Optuna values."""
        announced = {}
        for name, label in json.loads(frozen.system_attrs[SUGGESTED]).items():
            if name in parameters:
                try:
                    announced[name] = parameters[name].from_model(label)
                except (ValueError, TypeError):  # announced under a space that has changed since
                    continue
        return announced

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform value on the parameter's own scale, from the seed, the trial's number and the parameter's name."""
        sampler = RandomSampler(seed=_derived_seed(self._seed, f"{trial.number}/{param_name}"))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def __str__(self) -> str:
        return f"OptFormerSampler({self._model.name!r}, acquisition={self._acquisition!r})"


def _fresh_seed() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0])


def _derived_seed(seed: int, purpose: str) -> int:
    # Python's own hash of a string differs between processes.
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:4], "big")
