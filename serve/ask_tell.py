"""A plain optimization loop: ask for a trial, run it, tell its result (the ask-and-tell interface).

    tuner = AskTell({"rate": (1e-5, 1e-1, "log"), "layers": (1, 8), "optimizer": ["adam", "sgd"]}, seed=0)
    for _ in range(50):
        trial = tuner.ask()
        tuner.tell(trial, train(**trial.parameters))
    tuner.best.parameters

With a journal, every trial is on disk before `ask` returns it, and every result before `tell` returns.  So the same
program, started again, resumes the study.

A trial may report intermediate values, and be stopped:

    for step in range(1, 101):
        tuner.report(trial, loss_after(step), step)
        if tuner.should_stop(trial):
            tuner.tell(trial, "stopped")
            break
"""

import dataclasses
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from vizier import pyvizier as vz

from optformer.facade import Candidate, OptFormer, drawn_seed, load
from optformer.inference import costs
from optformer.inference.acquisition import check_acquisition
from optformer.inference.beliefs import Belief, Beliefs, checked_belief
from optformer.inference.constraints import Constraint
from optformer.inference.early_stopping import THRESHOLD, stopping
from optformer.inference.prediction import Prediction
from optformer.serialization import tokens
from optformer.serialization.prior_studies import checked_studies
from optformer.serialization.space import METADATA_NAMESPACE, StudySchema
from optformer.serialization.study import EncodedStudy
from optformer.serve import dictionary_spaces
from optformer.serve.dictionary_spaces import Space, measured_number, measured_values, plain, problem_over
from optformer.serve.domains import Domain, ModelValue, belief_over, constraints_over, search_space
from optformer.serve.journal import Journal, add_record, fingerprint, trial_number
from optformer.serve.plain_values import PlainValues
from optformer.serve.prior_studies import ended, in_domains, journal_study

_Chosen: TypeAlias = tuple[Mapping[str, Any], dict[str, str]]
"""Values of parameters, and the reason for them."""

_TOO_LARGE_STEP = 2**63

_Value: TypeAlias = float | Mapping[str, float] | Literal["stopped"] | None
"""The result of a trial."""


@dataclasses.dataclass(frozen=True)
class RunningTrial:
    """A trial to run.

    Attributes:
      number: number of the trial, from 1.
      parameters: plain Python values; those that are not active are left out.
      reason: why it was suggested: the metadata that `OptFormer.suggest` describes.
      reports: step -> value, as of the time when this object was created.
    """

    number: int
    parameters: dict[str, Any]
    reason: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
    reports: dict[int, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class FinishedTrial:
    """A finished trial.

    Attributes:
      number, parameters: as in `RunningTrial`.
      values: by metric; None if the trial failed or was stopped.
      stopped: whether it was stopped.
      reports: step -> value.
    """

    number: int
    parameters: dict[str, Any]
    values: dict[str, float] | None
    stopped: bool = False
    reports: dict[int, float] = dataclasses.field(default_factory=dict)


class AskTell:
    """A study in an ask-and-tell loop, in one process; safe to share between threads."""

    def __init__(
        self,
        space: Space | vz.SearchSpace | vz.ProblemStatement,
        model: OptFormer | str = "default",
        *,
        goal: Literal["minimize", "maximize"] = "minimize",
        metric: str = "objective",
        title: str | None = None,
        seed: int | None = 0,
        acquisition: str = "ei",
        constraints: Sequence[Constraint] = (),
        at_most: Mapping[str, float] | None = None,
        at_least: Mapping[str, float] | None = None,
        journal: str | os.PathLike[str] | None = None,
        prior_studies: "Sequence[AskTell | str | os.PathLike[str] | vz.ProblemAndTrials]" = (),
        belief: Mapping[str, Belief] | None = None,
        cost: str | None = None,
    ):
        """
        Args:
          space: a dictionary (`Space`), a search space, or a problem with metrics of its own.
          model: a loaded model, a shipped name (`default`: the best for a CPU), or a checkpoint directory.
          goal: goal of the objective, if `space` is not a problem.
          metric: name of the objective, if `space` is not a problem, such as `validation accuracy`; the model reads it.
          title: what is tuned, if `space` is not a problem, such as `LightGBM on adult`; the model reads it.
          seed: non-negative; None draws one.
          acquisition: `ei`, `pi`, `ucb`, `thompson` or `policy`.
          constraints: on parameters, as for `OptFormer.suggest`.
          at_most: constraints on outcomes, if `space` is not a problem (which has its own safety metrics): names of
            further metrics that are passed to `tell` -> their upper limits.
          at_least: the same with lower limits.
          journal: JSON-lines file to resume from and to append to.
          prior_studies: earlier studies of the same or an overlapping search space, as they are now: other tuners,
            paths of their journals (which are only read), or studies with their trials, as for `OptFormer.suggest`.
          belief: where good values lie, as for `OptFormer.suggest`; weights are by the values of the space.
          cost: name of a number that may be passed to `tell` with the metrics, such as seconds, as for
            `OptFormer.suggest`; default: the cost attached to the problem.

        Raises:
          ValueError: a space that cannot be read or represented, a limit that is not a number or that is given together
            with a problem, a belief that does not fit the space, a cost with an acquisition other than `ei` or `pi`, a
            journal of another space (the message says what differs), or an earlier journal that is invalid or the same
            file as `journal`.
          OSError: the journal cannot be written or is open in another process, or an earlier one cannot be read.
          TypeError: an earlier study has another type.
        """
        if goal not in ("minimize", "maximize"):
            raise ValueError(f"goal must be 'minimize' or 'maximize', not {goal!r}")
        domains: dict[str, Domain] = {}
        if not isinstance(space, vz.ProblemStatement | vz.SearchSpace):
            domains = dictionary_spaces.domains(space)
            space = search_space(domains)
        if not isinstance(space, vz.ProblemStatement):
            space = problem_over(space, metric, title, goal, at_most or {}, at_least or {})
        elif at_most or at_least:
            raise ValueError(
                "at_most and at_least need a search space; for a problem, use metrics with a safety_threshold"
            )
        self.problem = space
        self._schema = StudySchema(self.problem)
        self._values = PlainValues(self._schema, domains)
        self._objectives = [metric.name for metric in self._schema.metrics]
        if not self._objectives:
            raise ValueError(
                f"study {self._schema.study!r}: no objective metric; add one to problem.metric_information"
            )
        self._acquisition = check_acquisition(acquisition)
        self._seed, self._constraints = drawn_seed(seed), tuple(constraints)
        self._belief = checked_belief(belief, f"study {self._schema.study!r}")
        self._cost = costs.check_cost(costs.attached(self.problem) if cost is None else cost, acquisition)
        if domains:
            self._constraints = tuple(constraints_over(domains, self._constraints))
            self._belief |= belief_over(domains, self._belief)
        Beliefs(self._schema, self._belief)
        wanted = "other AskTell tuners, paths of their journals, or studies (vizier.pyvizier.ProblemAndTrials)"
        earlier = checked_studies(prior_studies, (AskTell, str, os.PathLike, vz.ProblemAndTrials), wanted)
        self._prior_studies = [_earlier_study(each, journal, domains) for each in earlier]
        self._trials: list[vz.Trial] = []
        self._waiting: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._journal = Journal(Path(journal), fingerprint(self._schema)) if journal is not None else None
        try:
            self._model = load(model)
            for number, record in enumerate(self._journal.records if self._journal else ()):
                try:
                    self._replay(record)
                except (ValueError, LookupError, TypeError) as error:
                    reason = str(error) if isinstance(error, ValueError) else repr(error)
                    raise ValueError(
                        f"{journal}, line {number + 2}: {reason}. Was a line removed, repeated or changed? Restore the "
                        "file, or remove this line and those after it"
                    ) from error
        except BaseException:
            self.close()
            raise

    # Asking.

    @overload
    def ask(self) -> RunningTrial: ...

    @overload
    def ask(self, count: int) -> list[RunningTrial]: ...

    def ask(self, count: int | None = None) -> RunningTrial | list[RunningTrial]:
        """The next trial, or `count` of them; each takes all running trials into account.

        Raises:
          ValueError: as `OptFormer.suggest`.
        """
        with self._lock:
            wanted = 1 if count is None else count
            chosen: list[_Chosen] = []
            for own in self._waiting[: max(0, wanted)]:
                chosen.append(self._filled_up(own, chosen))
            enqueued = len(chosen)
            if wanted - enqueued > 0 or wanted < 0:
                chosen += self._suggested(wanted - enqueued, chosen)
            trials = self._started(chosen)
            del self._waiting[:enqueued]
        return trials if count is not None else trials[0]

    def enqueue(self, parameters: Mapping[str, Any]) -> None:
        """Enqueues a point that `ask` returns before any suggestion.  The model chooses missing parameters.

        Raises:
          ValueError: a parameter is unknown, or its value is outside the space; the message names it.
        """
        with self._lock:
            self._values.encode("the point enqueued", parameters)
            self._waiting.append(self._values.own("the point enqueued", parameters))

    # Telling.

    def report(self, trial: RunningTrial | int, value: float, step: int) -> None:
        """Reports an intermediate value of a running trial.

        Args:
          trial: the trial from `ask`, or its number.
          value: value of the objective.
          step: non-negative, such as the epoch.  Earlier reports of this step and of later ones are dropped, so that a
            trial may be run again.

        Raises:
          ValueError: there are several objectives, there is no such trial, it already has a result, or the value or
            the step is invalid.
        """
        if len(self._objectives) > 1:
            raise ValueError(
                f"reports need a study with one objective; this one has several ({', '.join(self._objectives)})"
            )
        with self._lock:
            running = self._running(trial)
            if isinstance(step, bool) or not hasattr(step, "__index__") or step < 0:
                raise ValueError(f"trial {running.id}: the step must be an integer of at least 0, not {step!r}")
            if step >= _TOO_LARGE_STEP:
                raise ValueError(f"trial {running.id}: the step {step!r} is too large (at most 2**63 - 1)")
            values = {self._objectives[0]: measured_number(f"trial {running.id}", self._objectives[0], value)}
            self._record({"report": running.id, "step": int(step), "values": values})

    def should_stop(self, trial: RunningTrial | int, threshold: float = THRESHOLD) -> bool:
        """Whether a running trial should be stopped, according to its reports and those of the others.

        The budget is the largest step that any trial has reported.  With several objectives, no trial is stopped.

        Args:
          trial: the trial from `ask`, or its number.
          threshold: stop if the probability of a new best value is below this, in [0, 1].

        Raises:
          ValueError: there is no such trial, it already has a result, the checkpoint was not trained with learning
            curves, or the threshold is not a probability.
        """
        self._model.check_reads_reports()
        with self._lock:
            return stopping(self._model, self.problem, self._trials, self._running(trial), threshold).stop

    def tell(self, trial: RunningTrial | int, value: _Value) -> None:
        """Records the result of a trial.

        Args:
          trial: the trial from `ask`, or its number.
          value: value of the objective; or a dictionary of all metrics, including those with a limit, and optionally
            the cost; "stopped" if the trial was stopped early (its final value is then predicted from its reports);
            None if it failed.

        Raises:
          ValueError: there is no such trial, it already has a result, a metric is missing, unknown or not finite, or
            the cost is not positive.
        """
        with self._lock:
            number = self._running(trial).id
            self._record(self._result(number, f"trial {number}", value))

    def add(self, parameters: Mapping[str, Any], value: _Value) -> FinishedTrial:
        """Adds a trial that was run elsewhere, with its result.

        Raises:
          ValueError: the parameters are outside the space; or as in `tell`.
        """
        with self._lock:
            number = len(self._trials) + 1
            result = self._result(number, "a trial added", value)
            self._values.encode("a trial added", parameters)
            (added,) = self._started([(self._values.own("a trial added", parameters), {"source": "added"})], result)
            add_record(result, self._trials[-1])
            return dataclasses.replace(self._finished(self._trials[-1]), parameters=added.parameters)

    # Reading.

    @property
    def trials(self) -> list[FinishedTrial]:
        """All finished trials, failed and stopped ones included."""
        with self._lock:
            return [self._finished(trial) for trial in self._trials if trial.status == vz.TrialStatus.COMPLETED]

    @property
    def running(self) -> list[RunningTrial]:
        """The trials from `ask` that have no result yet."""
        with self._lock:
            return [
                RunningTrial(trial.id, self._values.of_trial(trial), reports=self._reports(trial))
                for trial in self._trials
                if trial.status != vz.TrialStatus.COMPLETED
            ]

    @property
    def best(self) -> FinishedTrial:
        """The finished trial with the best objective among those that violate no constraint on outcomes.

        Raises:
          ValueError: there is no such trial yet, or there are several objectives.
        """
        if len(self._objectives) > 1:
            raise ValueError(
                f"there are several objectives ({', '.join(self._objectives)}), so no single best trial; use `trials`"
            )
        with self._lock:
            study = EncodedStudy(self.problem, self._trials)
        best = study.best(0)
        if best is None:
            measured = bool(np.isfinite(study.values).any())
            raise ValueError("no trial has a result yet" if not measured else "no trial satisfies all constraints yet")
        return self._finished(study.trials[best])

    def predict(self, candidates: Sequence[Candidate], *, metric: str | None = None) -> Prediction:
        """As `OptFormer.predict`, given the trials so far."""
        with self._lock:
            trials = list(self._trials)
        if not isinstance(candidates, Mapping | str):
            candidates = [
                self._values.to_model(f"candidate {index}", each) if _is_plain(each) else each
                for index, each in enumerate(candidates)
            ]
        return self._model.predict(self.problem, trials, candidates, metric=metric, prior_studies=self._prior_studies)

    def close(self) -> None:
        """Closes the journal."""
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> "AskTell":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Private; the caller holds the lock.

    def _suggested(
        self, count: int, before: Sequence[_Chosen], given: Mapping[str, ModelValue] | None = None
    ) -> list[_Chosen]:
        """`count` suggestions; those before them are pending trials."""
        pending = [
            self._values.trial(number, values) for number, (values, _) in enumerate(before, len(self._trials) + 1)
        ]
        suggestions = self._model.suggest(
            self.problem,
            [*self._trials, *pending],
            count=count,
            acquisition=self._acquisition,
            seed=self._seed,
            constraints=self._constraints,
            given=given,
            prior_studies=self._prior_studies,
            belief=self._belief,
            cost=self._cost,
        )
        return [
            (self._values.decode(row), dict(suggestion.metadata.ns(METADATA_NAMESPACE).items()))
            for suggestion, row in zip(suggestions, self._schema.encode(suggestions), strict=True)
        ]

    def _filled_up(self, own: Mapping[str, Any], before: Sequence[_Chosen]) -> _Chosen:
        """An enqueued point, with suggested values for the parameters that it leaves out."""
        row = self._values.encode("the point enqueued", own)
        if (row != tokens.MISSING).all():
            return self._values.decode(row) | dict(own), {"source": "enqueued"}
        ((chosen, reason),) = self._suggested(1, before, self._values.to_model("the point enqueued", own))
        return {**chosen, **own}, reason | {"given": ", ".join(own)}

    def _started(self, chosen: Sequence[_Chosen], *further: Mapping[str, object]) -> list[RunningTrial]:
        """Starts trials with these values; the journal gets all of them and the `further` records, or nothing."""
        started = [
            RunningTrial(number, dict(parameters), reason)
            for number, (parameters, reason) in enumerate(chosen, len(self._trials) + 1)
        ]
        trials = [self._values.trial(trial.number, trial.parameters) for trial in started]
        records = [{"ask": trial.number, "parameters": self._values.to_json(trial.parameters)} for trial in started]
        self._write(*records, *further)
        self._trials += trials
        return started

    def _running(self, trial: RunningTrial | int) -> vz.Trial:
        """The trial, which must be running.

        Raises:
          ValueError: there is no such trial, or it already has a result.
        """
        number = plain(getattr(trial, "number", trial))
        if not isinstance(number, int):
            raise ValueError(f"{trial!r} is neither a trial from `ask` nor its number")
        if not 1 <= number <= len(self._trials):
            raise ValueError(f"trial {number}: no such trial; there are {len(self._trials)}")
        if self._trials[number - 1].status == vz.TrialStatus.COMPLETED:
            raise ValueError(f"trial {number}: already has a result")
        return self._trials[number - 1]

    def _record(self, record: dict[str, Any]) -> None:
        """Writes a record about a trial to the journal, then applies it to the trial."""
        self._write(record)
        add_record(record, self._trials[trial_number(record) - 1])

    def _result(self, number: int, which: str, value: _Value) -> dict[str, Any]:
        """The record of a trial's result.  `which`: the trial, for messages."""
        if isinstance(value, str) and value == "stopped":
            return {"tell": number, "stopped": True}
        values = None if value is None else measured_values(self.problem, which, value, self._cost)
        return {"tell": number, "values": values}

    def _finished(self, trial: vz.Trial) -> FinishedTrial:
        measurement, stopped = trial.final_measurement, trial.stopping_reason is not None
        values = None
        if not trial.infeasible and not stopped and measurement is not None:
            values = {name: metric.value for name, metric in measurement.metrics.items()}
        return FinishedTrial(trial.id, self._values.of_trial(trial), values, stopped, self._reports(trial))

    def _reports(self, trial: vz.Trial) -> dict[int, float]:
        return {int(each.steps): each.metrics[self._objectives[0]].value for each in trial.measurements}

    def _write(self, *records: Mapping[str, object]) -> None:
        if self._journal is not None:
            self._journal.append(*records)

    def _replay(self, record: dict[str, Any]) -> None:
        if "ask" in record:
            if int(record["ask"]) != len(self._trials) + 1:
                raise ValueError(f"trial {record['ask']} cannot follow trial {len(self._trials)}")
            parameters = self._values.from_json(record["parameters"])
            self._trials.append(self._values.trial(int(record["ask"]), parameters))
        else:
            add_record(record, self._running(trial_number(record)))


def _earlier_study(
    study: "AskTell | str | os.PathLike[str] | vz.ProblemAndTrials",
    journal: str | os.PathLike[str] | None,
    domains: Mapping[str, Domain],
) -> vz.ProblemAndTrials:
    """An earlier study, with the model's values of the parameters, for a tuner with this journal and these domains."""
    if isinstance(study, str | os.PathLike):
        path = Path(study)
        if journal is not None and path.resolve() == Path(journal).resolve():
            raise ValueError(f"prior_studies: {path} is this tuner's own journal")
        study = journal_study(path)
    elif isinstance(study, AskTell):
        with study._lock:
            study = vz.ProblemAndTrials(problem=study.problem, trials=ended(study._trials))
    return in_domains(study, domains) if domains else study


def _is_plain(candidate: Candidate) -> bool:
    """Whether a candidate has the user's values; candidates in Vizier's types have the model's."""
    return isinstance(candidate, Mapping) and not isinstance(candidate, vz.ParameterDict)
