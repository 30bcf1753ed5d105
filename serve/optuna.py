"""OptFormer as an Optuna sampler.

study = optuna.create_study(sampler=OptFormerSampler("path/to/checkpoint", seed=0))
"""

import contextlib
import functools
import hashlib
import json
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, Final

from vizier import pyvizier as vz

from optformer.extras import from_extra

with from_extra("optuna", user="the sampler"):
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler, PartialFixedSampler, TPESampler
    from optuna.samplers._base import _process_constraints_after_trial  # exported nowhere; every sampler uses it
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

from optformer.facade import OptFormer, drawn_seed, load
from optformer.inference import costs
from optformer.inference.acquisition import check_acquisition
from optformer.inference.beliefs import Belief, checked_belief
from optformer.inference.constraints import Constraint, LinearConstraint
from optformer.serialization.branches import Branch
from optformer.serialization.prior_studies import checked_studies
from optformer.serialization.space import METADATA_NAMESPACE
from optformer.serve import optuna_spaces
from optformer.serve.domains import (
    MOST_VALUES,
    Continuous,
    Domain,
    ModelValue,
    Steps,
    belief_over,
    constraints_over,
)
from optformer.serve.optuna_trials import SUGGESTED, add_costs, model_trials
from optformer.serve.prior_studies import in_domains

REASON: Final = "optformer:reason"
"""System attribute of a trial: why it was suggested, a JSON object of the suggestion's metadata."""

_MANY: Final = 10
"""If none of this many trials has a parameter of a belief, its name may be wrong."""

_SHOWN_AT_FIRST: Final = 8
"""Number of parameters that the model reads while it chooses those of a first trial one by one."""

_ATTEMPTS: Final = 3
"""Attempts to find a point that no other trial has; an exhausted space has none."""


class OptFormerSampler(BaseSampler):
    """Suggests values by `OptFormer.suggest`, for all parameters that finished trials have.

    Running trials are pending, failed ones infeasible.  Pruned trials count with a predicted final value
    (`OptFormer.prepared_trials`).  Studies may have several objectives.  Suggestions depend only on the seed and the
    trials in the storage, so a study can be resumed in another process, also with other ranges: trials in the old
    ranges still count.  If `enqueue_trial` or `PartialFixedSampler` gives values to some parameters, the other values
    are chosen to fit.

    Constraints on outcomes are those of `Trial.set_constraint` and of `constraints_func`: a trial with a value above 0
    is not feasible.  The model predicts each of them, and prefers trials that are likely to be feasible and better than
    the best feasible one.

    Which parameters depend on which (`if kind == "svm": c = trial.suggest_float(...)`) is inferred from the trials, and
    the whole branch of a trial is chosen at once.  Parameters that no trial has yet, such as those of the first trial,
    are chosen one by one.

    Another sampler chooses parameters with more than 1000 choices, and parameters that some later trials lack without
    another parameter that explains which.  It chooses each independently, and a warning says so.
    """

    def __init__(
        self,
        model: OptFormer | str = "default",
        *,
        seed: int | None = None,
        acquisition: str = "ei",
        algorithm: str | None = None,
        constraints: Sequence[Constraint] = (),
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
        prior_studies: Sequence[Study | vz.ProblemAndTrials] = (),
        belief: Mapping[str, Belief] | None = None,
        cost: str | None = None,
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
          constraints_func: as for Optuna's samplers: the values of the constraints on outcomes of a finished trial that
            did not fail.  None of them may be above 0.  They are stored where Optuna stores them.
          independent_sampler: for the parameters that the model cannot choose; by default `TPESampler` with seeds that
            follow from the seed, the trial and the parameter.
          warn_independent_sampling: whether to warn of each such parameter, once.
          prior_studies: earlier Optuna studies of the same or an overlapping search space, of which the model reads the
            finished, failed and pruned trials; also studies of any origin, as for `OptFormer.suggest`.  An Optuna study
            is read once, when the first trial is suggested.  Until a trial has finished, the model searches the space
            of the last Optuna study, and chooses one by one what this space does not have.
          belief: where good values lie, as for `OptFormer.suggest`; for choices, weights by choice.  The first trial
            has the most likely value of each parameter with a belief.  A warning names a parameter that no trial has.
          cost: name of a user attribute of trials (`trial.set_user_attr("seconds", 12.5)`), as for `OptFormer.suggest`;
            `duration` is the time in seconds that a trial took, unless an attribute has this name.

        Raises:
          ValueError: an unknown model, acquisition or algorithm, a negative seed, an invalid belief, or a cost with an
            acquisition other than `ei` or `pi`.
          TypeError: `prior_studies` holds anything other than studies.
        """
        if seed is not None and seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self._model = load(model)
        self._seed = drawn_seed(seed)
        self._acquisition = check_acquisition(acquisition)
        self._algorithm = self._model.check_algorithm(algorithm)
        self._constraints = tuple(constraints)
        self._constraints_func = constraints_func
        self._belief, self._cost = checked_belief(belief, "OptFormerSampler"), costs.check_cost(cost, acquisition)
        self._independent_sampler = independent_sampler
        self._warns = warn_independent_sampling
        self._warned = set[tuple[str, str]]()
        wanted = "Optuna studies, or studies with their trials (vizier.pyvizier.ProblemAndTrials)"
        self._prior_studies = list(checked_studies(prior_studies, (Study, vz.ProblemAndTrials), wanted))
        self._newest_space: optuna_spaces.KnownSpace | None = None  # of the last earlier Optuna study
        self._told: tuple[str, list[vz.ProblemAndTrials]] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"} | {"_told": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def reseed_rng(self) -> None:
        """A new random seed: Optuna calls this on the copies of a sampler that run in parallel."""
        self._seed = drawn_seed(None)
        if self._independent_sampler is not None:
            self._independent_sampler.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that the model can choose, of all branches, each with its newest distribution."""
        # Computed each time, because Optuna's cache of search spaces binds a sampler to one study.
        with _naming(study):
            return self._known_space(_whole(study).get_trials(deepcopy=False)).newest

    def _known_space(self, trials: Sequence[FrozenTrial]) -> optuna_spaces.KnownSpace:
        return optuna_spaces.known_space(trials, self._domains)

    def _domains(self, space: Mapping[str, BaseDistribution]) -> dict[str, Domain]:
        return optuna_spaces.domains(space)

    def _earlier(self, parameters: Mapping[str, Domain]) -> list[vz.ProblemAndTrials]:
        """The earlier studies in the model's values for these parameters."""
        self._read_prior_studies()
        terms = repr(parameters)
        if self._told is None or self._told[0] != terms:
            self._told = terms, [in_domains(each, parameters) for each in self._prior_studies]
        return self._told[1]

    def _read_prior_studies(self) -> None:
        """Converts the earlier Optuna studies, once, because they have ended."""
        for index, each in enumerate(self._prior_studies):
            if isinstance(each, Study):
                whole = _whole(each)
                self._prior_studies[index] = optuna_spaces.ended_study(whole, self._domains)
                self._newest_space = self._known_space(whole.get_trials(deepcopy=False))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values for the parameters of `search_space`; of branches that exclude each other, only one gets values."""
        if not search_space:
            return {}
        labels, newest = self._suggested(_whole(study), trial, search_space.keys())
        return {name: newest[name].from_model(label) for name, label in labels.items() if name in search_space}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Suggests the first trials of a study, whose parameters are not known yet, in the last earlier study's space.

        Parameters take these values when the objective function asks for them, if they allow them.
        """
        study = _whole(study)
        with self._lock:
            self._read_prior_studies()
        known = self._newest_space
        if known is not None and known.newest and not self._known_space(study.get_trials(deepcopy=False)).newest:
            self._suggested(study, trial, known.newest.keys(), known)

    def _suggested(
        self, study: Study, trial: FrozenTrial, names: Set[str], known: optuna_spaces.KnownSpace | None = None
    ) -> tuple[dict[str, ModelValue], dict[str, Domain]]:
        """Suggests values for these parameters, and stores them with the trial.

        Args:
          study: the whole study.
          trial: the trial.
          names: the parameters.
          known: the search space; default: that of the study's own trials.

        Returns:
          The values, in the model's form, and the domains of the parameters.
        """
        enqueued = trial.system_attrs.get("fixed_params", {})
        fixed = _held_values(study) | enqueued
        storage, number = study._storage, str(trial.number)
        # One trial at a time, so that the next thread sees this point.
        with self._lock:
            for attempt in range(_ATTEMPTS):
                # One seed for all trials, so that the first ones follow one quasi-random sequence.  Workers that have
                # come to the same point try again with different seeds.
                seed = _derived_seed(self._seed, "study" if attempt == 0 else f"{number}/{attempt}")
                frozen = study.get_trials(deepcopy=False)
                # `PartialFixedSampler` leaves the parameters that it fixes out of `names`.
                space = (known or self._known_space(frozen)).of(names | fixed.keys())
                newest, parameters = self._domains(space.newest), self._domains(space.united)
                values = optuna_spaces.model_values(fixed, parameters)
                given = _settled(values, enqueued, space.branches)
                limits = [*self._constraints, *_narrowed(newest, parameters, space.branches)]
                others = [each for each in frozen if each.number != trial.number]
                suggestion = self._ask(study, others, parameters, space.branches, given, limits, seed)
                labels = {name: values.get(name, own) for name, own in suggestion.parameters.as_dict().items()}
                announced = json.dumps(labels)
                storage.set_trial_system_attr(trial._trial_id, SUGGESTED, announced)
                # Another process may have suggested the same point meanwhile, and even finished it.  The one that
                # stores its point later sees the other's.
                others = study.get_trials(deepcopy=False)
                if all(o.number == trial.number or o.system_attrs.get(SUGGESTED) != announced for o in others):
                    break
        reason = dict(suggestion.metadata.ns(METADATA_NAMESPACE).items())
        storage.set_trial_system_attr(trial._trial_id, REASON, json.dumps(reason))
        return labels, newest

    def _ask(
        self,
        study: Study,
        others: Sequence[FrozenTrial],
        parameters: Mapping[str, Domain],
        branches: Mapping[str, Branch],
        given: Mapping[str, ModelValue],
        limits: Sequence[Constraint],
        seed: int,
    ) -> vz.TrialSuggestion:
        """The model's suggestion for these parameters, after the other trials of the study."""
        objectives = optuna_spaces.objective_names(study.directions, study.metric_names)
        told = model_trials(others, parameters, branches, objectives)
        if self._cost is not None and self._cost not in objectives:
            add_costs(told, others, self._cost, study.study_name)
        constraints = optuna_spaces.constraint_names(others)
        (suggestion,) = self._model.suggest(
            optuna_spaces.problem(
                study.study_name, parameters, study.directions, study.metric_names, branches, constraints
            ),
            told,
            acquisition=self._acquisition,
            algorithm=self._algorithm,
            seed=seed,
            constraints=constraints_over(parameters, limits),
            given=given,
            prior_studies=self._earlier(parameters),
            belief=self._believed(study, parameters, others),
            cost=self._cost,
        )
        return suggestion

    def _believed(
        self, study: Study, parameters: Mapping[str, Domain], trials: Sequence[FrozenTrial]
    ) -> dict[str, Belief]:
        """The belief about these parameters; warns of names that none of many trials has."""
        unknown = [name for name in self._belief if not any(name in each.distributions for each in trials)]
        if unknown and len(trials) >= _MANY and (study.study_name, unknown[0]) not in self._warned:
            self._warned.add((study.study_name, unknown[0]))
            warnings.warn(
                f"study {study.study_name!r}: the belief names a parameter {unknown[0]!r}, which none of {len(trials)} "
                "trials has",
                stacklevel=2,
            )
        with _naming(study):
            return belief_over(parameters, self._belief)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stores the values of `constraints_func` with the trial."""
        if self._constraints_func is not None:
            _process_constraints_after_trial(self._constraints_func, study, trial, state)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value for one parameter that the model has not chosen."""
        whole = _whole(study)
        with _naming(whole):
            chosen_from = self._domains({param_name: param_distribution})
        if self._newest_space is not None and param_name in chosen_from:
            # The trial may be a first one, suggested in the space of an earlier study.
            label = json.loads(trial.system_attrs.get(SUGGESTED, "{}")).get(param_name)
            value = _allowed(label, chosen_from[param_name], param_distribution)
            if value is not None:
                return value
        with self._lock:
            others = [each for each in whole.get_trials(deepcopy=False) if each.number != trial.number]
            if param_name in chosen_from and self._is_first(trial, others, param_name):
                return self._first_value(whole, trial, others, param_name, param_distribution)
        if self._warns and (whole.study_name, param_name) not in self._warned:
            self._warn(whole, trial, param_name, param_distribution, chosen_from.get(param_name))
        sampler = self._independent_sampler
        if sampler is None:
            sampler = TPESampler(seed=_derived_seed(self._seed, f"{trial.number}/{param_name}"))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _is_first(self, trial: FrozenTrial, others: Sequence[FrozenTrial], name: str) -> bool:
        """Whether the model chooses a parameter because no ended trial has it.

        Not while an older running trial has not come to it: both would get the same value, unless there is a belief,
        from which the values are drawn.
        """
        lacking = [each for each in others if name not in each.distributions]
        ended = [each for each in others if each.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        if any(name in each.distributions for each in ended):
            return False
        ahead = any(each.state == TrialState.RUNNING and each.number < trial.number for each in lacking)
        return name in self._belief or not ahead

    def _first_value(
        self,
        study: Study,
        trial: FrozenTrial,
        others: Sequence[FrozenTrial],
        name: str,
        distribution: BaseDistribution,
    ) -> Any:
        """The model's choice for a parameter that no ended trial has, given the values that this trial already has.

        The model reads only the newest of these, so that large spaces do not compile several sizes.
        """
        before = dict(list(trial.distributions.items())[1 - _SHOWN_AT_FIRST :])
        parameters = self._domains(before | {name: distribution})
        given = optuna_spaces.model_values(trial.params, parameters)
        seed = _derived_seed(self._seed, f"{trial.number}/{name}")
        suggestion = self._ask(study, others, parameters, {}, given, (), seed)
        return parameters[name].from_model(suggestion.parameters.as_dict()[name])

    def _warn(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution, domain: Domain | None
    ) -> None:
        """Warns once of a parameter that the model does not choose, with the reason.

        There is no warning where the next trials will be right again: at the first trial of a study or branch, and at a
        trial that refutes an inferred branch.  Nor is there one for a parameter with a single value.
        """
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        choices = getattr(distribution, "choices", None)
        if all(name not in each.distributions for each in trials):
            return
        if domain is None and choices is not None and len(choices) <= MOST_VALUES:
            return
        suggested = json.loads(trial.system_attrs.get(SUGGESTED, "{}"))
        if not name:
            reason = "its name is empty"
        elif domain is None:
            reason = f"it has {len(choices or ())} choices, and the model supports {MOST_VALUES}"
        elif name in suggested:
            reason = "the range has changed, and the model chose a value outside the new one"
        elif name in self._known_space(trials).newest:
            return
        elif name not in optuna_spaces.united(trials):
            reason = "its type, choices or scale has changed"
        else:
            reason = "only some trials have it, and no value of another parameter explains which"
        self._warned.add((study.study_name, name))
        sampler = self._independent_sampler or "TPESampler"
        warnings.warn(
            f"study {study.study_name!r}, parameter {name!r}: sampled by {sampler}, independently of the other "
            f"parameters, because {reason}. (warn_independent_sampling=False switches this warning off.)",
            stacklevel=2,
        )

    def __str__(self) -> str:
        return f"OptFormerSampler({self._model.name!r}, acquisition={self._acquisition!r})"


def _allowed(label: ModelValue | None, domain: Domain, distribution: BaseDistribution) -> Any:
    """The value with this label, suggested in another space; None if the parameter does not allow it."""
    try:
        value = None if label is None else domain.from_model(label)
        return value if value is not None and distribution._contains(distribution.to_internal_repr(value)) else None
    except (ValueError, TypeError):
        return None


@contextlib.contextmanager
def _naming(study: Study) -> Iterator[None]:
    """Errors about a parameter name the study, too."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"study {study.study_name!r}, {error}") from error


def _whole(study: Study) -> Study:
    """The whole study: Hyperband gives samplers a view of it that has the trials of one bracket only."""
    return getattr(study, "_study", study)


def _held_values(study: Study) -> dict[str, Any]:
    """Values that `PartialFixedSampler` fixes."""
    held: dict[str, Any] = {}
    sampler = study.sampler
    while isinstance(sampler, PartialFixedSampler):
        held = sampler._fixed_params | held
        sampler = sampler._base_sampler
    return held


def _settled(
    values: Mapping[str, ModelValue], enqueued: Mapping[str, Any], branches: Mapping[str, Branch]
) -> dict[str, ModelValue]:
    """The fixed values that the trial will have.

    An enqueued value on a branch that is still open draws the trial to this branch; a value of `PartialFixedSampler`
    does not.
    """

    def taken(name: str) -> bool:
        branch = branches.get(name)
        if branch is None:
            return True
        here = values[branch.parent] in branch.values if branch.parent in values else True
        return here and taken(branch.parent)

    def decided(name: str) -> bool:
        branch = branches.get(name)
        return name in enqueued or branch is None or (branch.parent in values and decided(branch.parent))

    return {name: value for name, value in values.items() if taken(name) and decided(name)}


def _narrowed(
    newest: Mapping[str, Domain], united: Mapping[str, Domain], branches: Mapping[str, Branch]
) -> list[Constraint]:
    """Constraints to the newest ranges, for parameters that have wider ranges in the model's search space."""
    limits: list[Constraint] = []
    for name, now in newest.items():
        before = united[name]
        if not (isinstance(now, Continuous | Steps) and isinstance(before, Continuous | Steps)):
            continue
        if (now.low, now.high) != (before.low, before.high):
            limit = LinearConstraint({name: 1.0}, lower=now.low, upper=now.high)
            limits.append(functools.partial(_holds_if_used, limit, name) if name in branches else limit)
    return limits


def _holds_if_used(limit: LinearConstraint, name: str, values: Mapping[str, Any]) -> bool:
    return name not in values or limit(values)


def _derived_seed(seed: int, purpose: str) -> int:
    # Python's own hash of a string differs between processes.
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:4], "big")
