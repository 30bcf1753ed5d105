"""OptFormer for Vizier: a `Designer` for benchmarks and plain loops, and a policy factory for the Vizier service.

server = servers.DefaultVizierServer(policy_factory=OptFormerPolicyFactory("path/to/checkpoint"), database_url=...)
study_config.algorithm = ALGORITHM
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from vizier import pyvizier as vz

from optformer.extras import from_extra

with from_extra("vizier", user="Vizier's designer"):  # its algorithms need more than its data model does
    from vizier import algorithms as vza
    from vizier import pythia

from optformer.facade import OptFormer, drawn_seed, load
from optformer.inference.acquisition import check_acquisition
from optformer.inference.beliefs import Belief
from optformer.inference.constraints import Constraint
from optformer.inference.early_stopping import stopping
from optformer.serialization.space import METADATA_NAMESPACE
from optformer.serve.prior_corpus import PriorCorpus
from optformer.serve.prior_studies import PRIOR_STUDIES, fetched

ALGORITHM: Final = "OPTFORMER"
"""The name under which `OptFormerPolicyFactory` answers: `study_config.algorithm = "OPTFORMER"`."""

GIVEN: Final = "given"
"""Metadata key of a study that is sent to a policy: fixed values of the suggestion, as JSON."""

_STOPS_AT_RANDOM: Final = "RANDOM_SEARCH"
"""Name of the algorithm that Vizier's service uses for early stopping."""


class OptFormerDesigner(vza.Designer):
    """Suggests through `OptFormer.suggest`; its only state is the trials that it was updated with.

    A new designer may be created for every suggestion, as Vizier's `DesignerPolicy` does: the model is shared, and the
    same seed and the same trials give the same suggestions.
    """

    def __init__(
        self,
        problem: vz.ProblemStatement,
        model: OptFormer | str = "default",
        *,
        seed: int | None = 0,
        acquisition: str = "ei",
        algorithm: str | None = None,
        constraints: Sequence[Constraint] = (),
        prior_studies: Sequence[vz.ProblemAndTrials] = (),
        belief: Mapping[str, Belief] | None = None,
        cost: str | None = None,
    ):
        """
        Args:
          problem: the study's search space and metrics.
          model: a loaded model, a shipped name (`default`: the best for a CPU), or a checkpoint directory; loaded
            once per process.
          seed: non-negative; None draws one.
          acquisition: `ei`, `pi`, `ucb`, `thompson` or `policy`.
          algorithm: the optimizer to imitate, by its name in the corpus.
          constraints: as for `OptFormer.suggest`, in addition to those attached to the problem.
          prior_studies: as for `OptFormer.suggest`: earlier studies with their trials.
          belief: as for `OptFormer.suggest`.
          cost: as for `OptFormer.suggest`: a metric of final measurements, which the problem need not have.

        Raises:
          ValueError: unknown model or acquisition.
        """
        self._problem = problem
        self._prior_studies = tuple(prior_studies)
        self._model = load(model)
        self._seed = drawn_seed(seed)
        self._acquisition = check_acquisition(acquisition)
        self._algorithm = algorithm
        self._constraints = tuple(constraints)
        self._belief, self._cost = belief, cost
        self._completed: dict[int, vz.Trial] = {}
        self._active: tuple[vz.Trial, ...] = ()
        self._unnumbered: list[vz.Trial] = []

    def update(self, completed: vza.CompletedTrials, all_active: vza.ActiveTrials) -> None:
        """Adds newly completed trials (replacing earlier ones with the same id), and replaces the pending ones.

        A trial that has been completed is not pending, even if it is among the active ones.

        Raises:
          ValueError: a trial was completed without a metric of the problem, and not as infeasible or stopped.
        """
        check_measured(self._problem, completed.trials)
        for trial in completed.trials:
            if trial.id > 0:
                self._completed[trial.id] = trial
            else:
                self._unnumbered.append(trial)
        self._active = tuple(trial for trial in all_active.trials if trial.id not in self._completed)

    def set_priors(self, prior_trials: Sequence[vza.CompletedTrials]) -> None:
        """Sets trials of earlier studies of this problem, as Vizier's designers do; replaces `prior_studies`."""
        self._prior_studies = tuple(
            vz.ProblemAndTrials(problem=self._problem, trials=list(each.trials)) for each in prior_trials
        )

    def suggest(self, count: int | None = None) -> list[vz.TrialSuggestion]:
        """`count` suggestions (1 if None); none repeats a finished or pending trial unless the space is exhausted."""
        finished = [self._completed[number] for number in sorted(self._completed)]
        return self._model.suggest(
            self._problem,
            [*self._unnumbered, *finished, *self._active],
            count=1 if count is None else count,
            acquisition=self._acquisition,
            algorithm=self._algorithm,
            seed=self._seed,
            constraints=self._constraints,
            prior_studies=self._prior_studies,
            belief=self._belief,
            cost=self._cost,
        )


class OptFormerPolicyFactory(pythia.PolicyFactory):
    """Policies for studies whose algorithm is OPTFORMER; delegates all others to Vizier's own factory.

    The model is loaded once and shared by all studies.  Each study has its own seed, derived from `seed` and its name.

    Vizier's service (`DefaultVizierServer`) asks its random policy which trials should stop, whatever the algorithm of
    the study.  Here, that policy stops no trial.
    """

    def __init__(
        self,
        model: OptFormer | str = "default",
        *,
        seed: int | None = 0,
        acquisition: str = "ei",
        others: Callable[..., pythia.Policy] | None = None,
        prior_corpus: PriorCorpus | None = None,
    ):
        """
        Args:
          model: as for `OptFormerDesigner`.
          acquisition: as for `OptFormerDesigner`.
          seed: non-negative; None draws one.
          others: the factory for other algorithms; None: Vizier's default one.
          prior_corpus: source of earlier studies for studies that name none.

        Raises:
          ValueError: unknown model or acquisition.
        """
        self._model = load(model)
        self._seed = drawn_seed(seed)
        self._acquisition = check_acquisition(acquisition)
        self._others = others
        self._prior_corpus = prior_corpus

    def __call__(
        self,
        problem_statement: vz.ProblemStatement,
        algorithm: str,
        policy_supporter: pythia.PolicySupporter,
        study_name: str,
    ) -> pythia.Policy:
        if algorithm != ALGORITHM:
            others = self._others or _default_factory()
            policy = others(problem_statement, algorithm, policy_supporter, study_name)
            return _RandomPolicy(policy) if algorithm == _STOPS_AT_RANDOM else policy
        # Python's own hash of a string differs between processes.
        digest = hashlib.sha256(f"{self._seed}/{study_name}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big")

        return OptFormerPolicy(
            policy_supporter,
            self._model,
            seed=seed,
            acquisition=self._acquisition,
            prior_corpus=self._prior_corpus,
        )


class OptFormerPolicy(pythia.Policy):
    """Suggests for one study of a service.

    Vizier's `DesignerPolicy` reads first the completed and then the active trials.  A trial that is completed in
    between is in neither list, and may be suggested again.  This policy reads all trials at once.
    """

    def __init__(
        self,
        supporter: pythia.PolicySupporter,
        model: OptFormer,
        *,
        seed: int,
        acquisition: str,
        prior_corpus: PriorCorpus | None = None,
    ):
        self._supporter, self._model, self._prior_corpus = supporter, model, prior_corpus
        self._seed, self._acquisition = seed, acquisition

    def suggest(self, request: pythia.SuggestRequest) -> pythia.SuggestDecision:
        """Suggests with earlier studies: those that the metadata of the study name (`optformer.serve.prior_studies`).
        If they name none, the most similar ones in the corpus.

        Raises:
          ValueError: as `OptFormer.suggest` and `OptFormerDesigner.update`; also if an earlier study does not exist or
            has another owner.
        """
        trials = sorted(self._supporter.GetTrials(study_guid=request.study_guid), key=lambda trial: trial.id)
        finished = [trial for trial in trials if trial.status == vz.TrialStatus.COMPLETED]
        running = [trial for trial in trials if trial.status != vz.TrialStatus.COMPLETED]
        problem = request.study_config.to_problem()
        given = problem.metadata.ns(METADATA_NAMESPACE).pop(GIVEN, "{}")
        prior_studies = fetched(self._supporter, problem.metadata, request.study_guid)
        if not prior_studies and self._prior_corpus is not None:
            prior_studies = self._prior_corpus.closest(problem)
        problem.metadata.ns(METADATA_NAMESPACE).pop(PRIOR_STUDIES, "")
        problem.metadata.ns(METADATA_NAMESPACE).setdefault("study_id", request.study_guid)  # for messages
        check_measured(problem, finished, request.study_guid)
        suggestions = self._model.suggest(
            problem,
            [*finished, *running],
            count=request.count or 1,
            acquisition=self._acquisition,
            seed=self._seed,
            given=json.loads(str(given)),
            prior_studies=prior_studies,
        )
        return pythia.SuggestDecision(suggestions, metadata=vz.MetadataDelta())

    def early_stop(self, request: pythia.EarlyStopRequest) -> pythia.EarlyStopDecisions:
        """Which of the requested trials should be stopped (`optformer.inference.early_stopping`).

        None, unless the checkpoint was trained with learning curves.
        """
        if not self._model.reads_reports:
            return stop_none(request, f"checkpoint {self._model.name!r} was not trained with learning curves")
        trials = sorted(self._supporter.GetTrials(study_guid=request.study_guid), key=lambda trial: trial.id)
        problem = request.study_config.to_problem()
        decisions = []
        for trial in trials:
            if trial.id in (request.trial_ids or ()) and trial.status == vz.TrialStatus.ACTIVE:
                found = stopping(self._model, problem, trials, trial)
                decisions.append(pythia.EarlyStopDecision(id=trial.id, reason=found.reason, should_stop=found.stop))
        return pythia.EarlyStopDecisions(decisions)

    @property
    def name(self) -> str:
        """Name of the algorithm."""
        return ALGORITHM


class _RandomPolicy(pythia.Policy):
    """Wraps Vizier's policy and disables its early stopping, which stops a random running trial at each request."""

    def __init__(self, policy: pythia.Policy):
        self._policy = policy

    def suggest(self, request: pythia.SuggestRequest) -> pythia.SuggestDecision:
        return self._policy.suggest(request)

    def early_stop(self, request: pythia.EarlyStopRequest) -> pythia.EarlyStopDecisions:
        return stop_none(request)

    @property
    def name(self) -> str:
        """Name of Vizier's policy."""
        return self._policy.name


def stop_none(
    request: pythia.EarlyStopRequest, reason: str = "no reason to stop is known"
) -> pythia.EarlyStopDecisions:
    """The decision to stop none of the requested trials."""
    return pythia.EarlyStopDecisions(
        [
            pythia.EarlyStopDecision(id=number, reason=reason, should_stop=False)
            for number in sorted(request.trial_ids or ())
        ]
    )


def check_measured(problem: vz.ProblemStatement, completed: Sequence[vz.Trial], study: str = "") -> None:
    """Raises ValueError for a trial that is neither infeasible nor stopped and lacks an objective of the problem."""
    wanted = [metric.name for metric in problem.metric_information if metric.type.is_objective]
    for trial in completed:
        if trial.infeasible or trial.stopping_reason is not None:
            continue
        given = trial.final_measurement.metrics if trial.final_measurement is not None else {}
        missing = [name for name in wanted if name not in given]
        if missing:
            where = f"study {study!r}, " if study else ""
            has = f"it has {', '.join(map(repr, given))}" if given else "it has none"
            raise ValueError(
                f"{where}trial {trial.id}: was completed without the metric {missing[0]!r} ({has}); if it failed, "
                "complete it with an infeasibility reason"
            )


def _default_factory() -> pythia.PolicyFactory:
    from vizier._src.service.policy_factory import DefaultPolicyFactory  # exported nowhere

    return DefaultPolicyFactory()
