"""`OptFormer`: the main class of the public API."""

import copy
import dataclasses
import logging
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vizier import pyvizier as vz

from optformer.inference.card import (
    predicted_from,
    trained_length,
    trained_with_curves,
    trained_with_earlier_studies,
    trained_without_trials,
)
from optformer.inference.prediction import Prediction
from optformer.inference.reasons import reasons
from optformer.pretrained import checkpoint_path
from optformer.serialization import tokens
from optformer.serialization.space import METADATA_NAMESPACE

if TYPE_CHECKING:
    from optformer.inference.beliefs import Belief
    from optformer.inference.constraints import Constraint
    from optformer.inference.proposable import Proposal
    from optformer.inference.search import Search
    from optformer.inference.settings import SearchSettings
    from optformer.model import Model
    from optformer.serialization.study import EncodedStudy

_LOG = logging.getLogger(__name__)

Candidate: TypeAlias = vz.TrialSuggestion | vz.ParameterDict | Mapping[str, Any]
"""A configuration: a suggestion, a trial, its parameters, or a plain dictionary."""


class OptFormer:
    """A trained model: suggests trials, predicts objectives, and gives the probability that its policy, which imitates
    the optimizers in its training data, suggests a trial.

    Stateless: every result depends on the arguments only.  Safe to share between threads.

    Attributes:
      card: the checkpoint's description: data, training, scores.
      name: name of the checkpoint, as suggestions report it.
    """

    def __init__(self, model: "Model", card: Mapping[str, Any] | None = None, settings: "SearchSettings | None" = None):
        """
        Args:
          model: from `optformer.model.build_model` or `load_checkpoint`.
          card: the checkpoint's card.
          settings: settings of the search.  By default, the card decides how many trials the model reads: the policy as
            many as the histories in training have, the function head up to three times as many, but at most 152.
        """
        # Imported here, so that importing the class does not load jax.
        from optformer.inference.compiled import CompiledModel, cache_compilations
        from optformer.inference.settings import SearchSettings

        cache_compilations()
        self.card = dict(card or {})
        self.name = str(self.card.get("name") or "unnamed")
        if settings is None:
            settings = SearchSettings(max_trials=predicted_from(self.card), policy_trials=trained_length(self.card))
        self._settings = self._resolved(settings)
        self._model = CompiledModel(model, self._settings.kept_histories)

    @classmethod
    def from_pretrained(
        cls, name_or_dir: str | os.PathLike[str], settings: "SearchSettings | None" = None
    ) -> "OptFormer":
        """Loads a shipped checkpoint by name, a checkpoint directory, or a training's working directory.

        Raises:
          ValueError: no such name or directory (the message lists the names), a directory that is empty, incomplete or
            damaged, or a model with another text vocabulary.
        """
        from optformer.model import load_checkpoint
        from optformer.serialization.vocabulary import Vocabulary

        path = checkpoint_path(name_or_dir)
        model, card = load_checkpoint(path, vocabulary=Vocabulary.default().fingerprint)
        return cls(model, {"name": path.name, **card}, settings)

    def __repr__(self) -> str:
        return f"OptFormer({self.name!r})"

    def with_settings(self, **changes: Any) -> "OptFormer":
        """The same weights and compiled functions with other settings of the search.

        Args:
          changes: fields of `SearchSettings`, such as `rounds=2`.

        Raises:
          TypeError: a field does not exist.
          ValueError: a value is out of range.
        """
        other = copy.copy(self)
        other._settings = self._resolved(dataclasses.replace(self._settings, **changes))
        other._model = self._model.keeping(other._settings.kept_histories)
        return other

    def _resolved(self, settings: "SearchSettings") -> "SearchSettings":
        """The settings, with `start="auto"` resolved by the card."""
        if settings.start != "auto":
            return settings
        return dataclasses.replace(settings, start="model" if trained_without_trials(self.card) else "quasi-random")

    def warm_up(self, parameters: int = 8, trials: int = 16) -> float:
        """Compiles the functions for studies of this size by suggesting for a synthetic one.

        Sizes are rounded up to a few shapes, so one call also covers studies that are somewhat smaller.

        Args:
          parameters: number of parameters of the study.
          trials: number of finished trials.

        Returns:
          Wall time in seconds.
        """
        problem = vz.ProblemStatement()
        for index in range(parameters):
            problem.search_space.root.add_float_param(f"x{index}", 0.0, 1.0)
        problem.metric_information.append(vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
        started, finished = time.perf_counter(), []
        for number in range(1, trials + 1):
            place = {f"x{index}": (number * 0.618 + index * 0.414) % 1.0 for index in range(parameters)}
            trial = vz.Trial(id=number, parameters=place)
            finished.append(trial.complete(vz.Measurement(metrics={"y": sum(place.values())})))
        # Two suggestions, because the second is scored with the first one pending, which is another shape.
        self.suggest(problem, finished, count=2)
        return time.perf_counter() - started

    def check_algorithm(self, name: str | None) -> str | None:
        """Returns `name` if the checkpoint can imitate this optimizer.

        Raises:
          ValueError: the card lists the optimizers that the model knows, and `name` is not among them.
        """
        known = self.card.get("algorithms")
        if name is not None and known and name not in known:
            raise ValueError(f"unknown algorithm {name!r}; {self.name} knows {', '.join(map(str, known))}")
        return name

    def suggest(
        self,
        problem: vz.ProblemStatement,
        trials: Sequence[vz.Trial],
        count: int = 1,
        acquisition: str = "ei",
        algorithm: str | None = None,
        seed: int | None = 0,
        constraints: "Sequence[Constraint]" = (),
        given: Candidate | None = None,
        prior_studies: "Sequence[vz.ProblemAndTrials]" = (),
        belief: "Mapping[str, Belief] | None" = None,
        cost: str | None = None,
    ) -> list[vz.TrialSuggestion]:
        """The next trials to run.

        The first suggestion is the problem's default values, if it declares any.  A model that was also trained on
        studies without finished trials chooses all further trials.  With other models, the first trials are
        quasi-random until D + 1 of them (at least 3, at most 8; D: number of parameters) have finite objectives.
        Several objectives are optimized by hypervolume.  Safety metrics are constraints on outcomes: configurations
        that probably violate one are rarely suggested.

        Args:
          problem: search space and metrics.
          trials: all trials of the study, in order of time; those without a final measurement are pending.
          count: number of suggestions; each treats those before it as pending trials.
          acquisition: `ei` (expected improvement), `pi` (probability of improvement), `ucb` (0.9 quantile), `thompson`,
            or `policy` (a sample of the policy, which continues as the imitated algorithm would).
          algorithm: the optimizer to imitate, by its name in the corpus.
          seed: non-negative.  The same seed and trials give the same suggestions, in any process.  None: a new seed for
            each call.
          constraints: what suggestions must satisfy besides their bounds: `LinearConstraint`s, and predicates on the
            dictionary of values.  Those that `optformer.inference.constraints.attach` put into the problem also apply.
          given: fixed values of some parameters, which all suggestions have; the other values are chosen to fit.
          prior_studies: earlier studies of the same or an overlapping search space, whose trials the model also reads.
            Parameters are matched by name; the metric by name, or because both studies have only one objective.  See
            `optformer.serialization.prior_studies`.  A study that shares nothing is left out with a log message.
          belief: parameter -> where good values probably lie: ("normal", mean, standard deviation), ("log_normal",
            median, factor), ("uniform", low, high), or a dictionary from value to weight.  Its influence decays with
            the number of trials; see `optformer.inference.beliefs`.
          cost: name of a metric that trials report besides their objectives, such as seconds.  Cheap trials are
            preferred; this influence decays as well, see `optformer.inference.costs`.  Needs `ei` or `pi`.

        Returns:
          Suggestions with plain Python values.  None repeats a finished or pending trial unless the space is exhausted.
          Their metadata in the namespace `optformer` are strings:
            `checkpoint`: name of the checkpoint.
            `source`: the acquisition, `default`, `quasi-random`, `belief`, or `feasibility` (as long as no trial has
              succeeded).
            `acquisition_value`, `mean`, `quantile_05`, `quantile_50`, `quantile_95` (user units), `infeasible`
              (probability): if the model predicted the trial.  With several objectives, the prediction's keys end in
              `:` and the objective's name.
            `improvement`: with one objective and a best value so far, the probability of a better one.
            `constraints_hold`: with safety metrics, the probability that all are satisfied if the trial does not fail;
              `holds:NAME` for each one, and `warning` if they are unlikely to be.
            `belief`: with a belief, its density at the suggestion, relative to its maximum.
            `cost`: with predicted costs, the median.

        Raises:
          ValueError: unknown acquisition or algorithm, a problem or trial that cannot be represented (the message names
            study, trial and parameter), constraints that no configuration was found to satisfy, or a belief that does
            not fit the search space.
          TypeError: `prior_studies` holds anything other than studies with their trials.
        """
        self.check_algorithm(algorithm)
        options: dict[str, Any] = {"algorithm": algorithm, "acquisition": acquisition, "seed": drawn_seed(seed)}
        options |= {"constraints": constraints, "belief": belief, "cost": cost}
        search = self.search(problem, trials, given, prior_studies, **options)
        suggestions = [self._suggestion(search.study, proposal) for proposal in search.suggest(count)]
        return [_with_given_numbers(each, given) if given else each for each in suggestions]

    def predict(
        self,
        problem: vz.ProblemStatement,
        trials: Sequence[vz.Trial],
        candidates: Sequence[Candidate],
        *,
        metric: str | None = None,
        algorithm: str | None = None,
        prior_studies: "Sequence[vz.ProblemAndTrials]" = (),
    ) -> Prediction:
        """Predicts the objective of each candidate as the next trial.  Does not depend on the order of the trials.

        Args:
          problem: search space and metrics.
          trials: all trials of the study.
          candidates: N configurations.
          metric: name of the objective; required if there are several.
          algorithm: name of the optimizer that chose the trials, if known.
          prior_studies: as in `suggest`.

        Returns:
          The predictive distributions of the N candidates.

        Raises:
          ValueError: as in `suggest`; also a candidate outside the space, or several objectives without `metric`.
          TypeError: candidates that are not a sequence of configurations.
        """
        self.check_algorithm(algorithm)
        search = self.search(problem, trials, prior_studies=prior_studies, algorithm=algorithm)
        rows = search.study.schema.encode(_checked_candidates(candidates))
        return search.predict(rows, search.study.metric_index(metric))

    def log_prob(
        self,
        problem: vz.ProblemStatement,
        trials: Sequence[vz.Trial],
        suggestion: Candidate,
        algorithm: str | None = None,
        prior_studies: "Sequence[vz.ProblemAndTrials]" = (),
    ) -> float:
        """Log-probability, in nats, that the policy suggests this configuration next.

        The model divides the range of each parameter into levels (1000 for a continuous one).  The result is the sum,
        over the active parameters, of the log-probability of the configuration's level.  A uniform policy over D
        continuous parameters has -D log 1000.  For a density over the unit cube, add log(levels - 1) for each
        continuous parameter.

        Args:
          problem: search space and metrics.
          trials: all trials of the study, in order of time.
          suggestion: the configuration.
          algorithm: the optimizer to imitate, by its name in the corpus.
          prior_studies: as in `suggest`.

        Raises:
          ValueError: as in `suggest`; also a suggestion that is outside the space or lacks a parameter.
        """
        self.check_algorithm(algorithm)
        search = self.search(problem, trials, prior_studies=prior_studies, algorithm=algorithm)
        schema = search.study.schema
        rows = schema.encode(_checked_candidates([suggestion]))
        missing = [slot.path for slot, token in zip(schema.slots, rows[0], strict=True) if token == tokens.MISSING]
        if missing:
            raise ValueError(f"study {schema.study!r}: the suggestion lacks parameter(s) {', '.join(missing)}")
        return float(search.log_probability(rows)[0])

    def predict_final(
        self,
        problem: vz.ProblemStatement,
        trials: Sequence[vz.Trial],
        running_trial: vz.Trial,
        *,
        share: float = 1.0,
        metric: str | None = None,
        prior_studies: "Sequence[vz.ProblemAndTrials]" = (),
    ) -> Prediction:
        """Predicts the final value of a running or stopped trial from its reports and those of the other trials.

        Reports are intermediate measurements.  The budget of a trial is the largest step that any trial has reported.

        Args:
          problem: search space and metrics.
          trials: all trials of the study; may include the running one, which is recognized by its id.
          running_trial: the trial, with the measurements that it has reported.
          share: share of the budget, in (0, 1].  Below 1, the report at this share is predicted, not the final value.
          metric: name of the objective; required if there are several.
          prior_studies: as in `suggest`.

        Returns:
          The distribution of its final value, as a prediction of one candidate.

        Raises:
          ValueError: as in `suggest`; also a checkpoint that was not trained with learning curves, a trial that has a
            final value, a share outside (0, 1], or a share below 1 for a trial without reports.
        """
        from optformer.inference.stopped_trials import open_ended
        from optformer.serialization.partial_trials import level

        if not 0.0 < share <= 1.0:
            raise ValueError(f"share must lie in (0, 1], not {share}")
        self.check_reads_reports()
        others = [trial for trial in trials if trial.id != running_trial.id]
        search = self._search_over(self._study(problem, open_ended(problem, [*others, running_trial]), prior_studies))
        last, study = len(others), search.study
        where = f"study {study.schema.study!r}, trial {running_trial.id}"
        if running_trial.final_measurement is not None and running_trial.final_measurement.metrics:
            raise ValueError(f"{where}: it has a final value, so there is nothing to predict")
        index = study.metric_index(metric)
        if share < 1.0 and not len(study.reports(index)[last]):
            raise ValueError(f"{where}: it has not reported, so only its final value can be predicted (share=1)")
        return search.predict(study.x_tokens[last:], index, asked=last, left=int(level(share)))

    def check_reads_reports(self) -> None:
        """Raises ValueError if the checkpoint was not trained with learning curves."""
        if not self.reads_reports:
            raise ValueError(
                f"checkpoint {self.name!r} was not trained with learning curves, so it cannot read reports of running "
                "trials; use one that was, such as the default"
            )

    @property
    def reads_reports(self) -> bool:
        """Whether the model was trained with learning curves, according to its card."""
        return trained_with_curves(self.card)

    def prepared_trials(self, problem: vz.ProblemStatement, trials: Sequence[vz.Trial]) -> list[vz.Trial]:
        """The trials as suggestions and predictions use them, in the same order.

        A stopped trial gets a final value that is extrapolated from its reports (`optformer.inference.stopped`).  With
        several objectives, a model trained with learning curves reads the reports themselves.
        """
        from optformer.inference.stopped_trials import open_ended, with_final_values

        objectives = [metric for metric in problem.metric_information if metric.type.is_objective]
        prepare = open_ended if self.reads_reports and len(objectives) > 1 else with_final_values
        return prepare(problem, trials)

    def search(
        self,
        problem: vz.ProblemStatement,
        trials: Sequence[vz.Trial],
        given: Candidate | None = None,
        prior_studies: "Sequence[vz.ProblemAndTrials]" = (),
        **options: Any,
    ) -> "Search":
        """The search on which the methods above are based.  It works on the study's tokens.

        Args:
          problem: search space and metrics.
          trials: all trials of the study.
          given: fixed values of some parameters, which all proposals have.
          prior_studies: as in `suggest`.
          options: further arguments of `Search`: algorithm, acquisition, seed, constraints, belief, cost.

        Raises:
          ValueError: as in `suggest`.
        """
        study = self._study(problem, self.prepared_trials(problem, trials), prior_studies)
        return self._search_over(study, given, **options)

    def _study(
        self, problem: vz.ProblemStatement, trials: Sequence[vz.Trial], prior_studies: "Sequence[vz.ProblemAndTrials]"
    ) -> "EncodedStudy":
        from optformer.inference.stopped_trials import with_final_values
        from optformer.serialization.study import EncodedStudy

        study = EncodedStudy(problem, trials, prior_studies)
        # Earlier studies contribute one value per trial, so stopped trials need a final value.
        study.prior_studies = tuple(
            vz.ProblemAndTrials(problem=each.problem, trials=with_final_values(each.problem, each.trials))
            for each in study.prior_studies
        )
        if study.prior_studies and not trained_with_earlier_studies(self.card):
            _warn_of_earlier(self.name)
        return study

    def _search_over(self, study: "EncodedStudy", given: Candidate | None = None, **options: Any) -> "Search":
        from optformer.inference.given_values import SearchAround
        from optformer.inference.search import Search

        options["reads_reports"] = self.reads_reports
        if not given:
            return Search(self._model, self._settings, study, **options)
        search = SearchAround(self._model, self._settings, study, **options)
        search.hold(*_checked_candidates([given]))
        return search

    def _suggestion(self, study: "EncodedStudy", proposal: "Proposal") -> vz.TrialSuggestion:
        metadata = vz.Metadata()
        metadata.ns(METADATA_NAMESPACE).update({"checkpoint": self.name, **reasons(study, proposal)})
        return vz.TrialSuggestion(study.schema.decode_parameters(proposal.row), metadata=metadata)


def _with_given_numbers(suggestion: vz.TrialSuggestion, given: Candidate) -> vz.TrialSuggestion:
    """The suggestion with exactly the given numbers, which may lie between two of the model's levels."""
    parameters = given.parameters if isinstance(given, vz.TrialSuggestion) else given
    values = parameters.as_dict() if isinstance(parameters, vz.ParameterDict) else parameters
    for name, value in values.items():
        if isinstance(value, int | float) and name in suggestion.parameters:
            suggested = suggestion.parameters[name].value
            if isinstance(suggested, int | float):
                suggestion.parameters[name] = type(suggested)(value)
    return suggestion


def _checked_candidates(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    if isinstance(candidates, vz.TrialSuggestion | vz.ParameterDict | Mapping | str):
        raise TypeError("candidates must be a sequence of configurations; put a single one into a list")
    for index, candidate in enumerate(candidates):
        if not isinstance(candidate, vz.TrialSuggestion | vz.ParameterDict | Mapping):
            raise TypeError(f"candidate {index} is not a suggestion, trial or dictionary: {type(candidate).__name__}")
    return candidates


_warned_of_earlier = threading.Lock()
"""Acquired by the first thread that warns and never released, so that there is one warning per process."""


def _warn_of_earlier(name: str) -> None:
    if _warned_of_earlier.acquire(blocking=False):
        _LOG.warning(
            "checkpoint %r was not trained with earlier studies: it reads prior_studies, but its suggestions may get "
            "worse; use a checkpoint that was, such as the default",
            name,
        )


def drawn_seed(seed: int | None) -> int:
    """The seed; a random one for None."""
    return secrets.randbelow(2**31) if seed is None else seed


_loaded: dict[Path, tuple[int, OptFormer]] = {}
"""Directory -> modification time of its config, and the model; an older model of the directory is not kept."""
_loading = threading.Lock()


def load(model: OptFormer | str | os.PathLike[str]) -> OptFormer:
    """Returns a model unchanged, or loads it by name or directory: once per process, again if the files change."""
    if isinstance(model, OptFormer):
        return model
    path = checkpoint_path(model)
    config = path / "config.json"
    changed = config.stat().st_mtime_ns if config.is_file() else 0
    with _loading:
        if path not in _loaded or _loaded[path][0] != changed:
            _loaded[path] = changed, OptFormer.from_pretrained(path)
        return _loaded[path][1]
